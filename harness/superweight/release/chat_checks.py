"""Compare how likely a release finds the base's own answers under its chat template."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from superweight.measurement.evaluate import Values
from superweight.release.chat_replies import NoReplies, Reply, asked
from superweight.release.limits import Limits
from superweight.release.result import QUALITY, Check, broken, graded, not_comparable
from superweight.release.side import Side

REPLIES, END, OWN_TEMPLATE = "chat replies", "end of a reply", "chat template of the release"


def compare_replies(base: Side, release: Side, limits: Limits) -> list[Check]:
    """Return the checks of the base's greedy replies, judged by the release.

    What plain text hardly uses shows here: the end of a text, the template's own tokens, digits.
    """
    try:
        given = base.replies
    except NoReplies as error:
        return [not_comparable(QUALITY, REPLIES, f"{error}: chat replies are not compared")]
    try:
        own = [asked(release.subject, reply.question) for reply in given]
    except NoReplies as error:
        return [broken(QUALITY, REPLIES, f"the base chats and the release does not: {error}")]
    alike = own == [reply.asked for reply in given]
    if any(max(reply.asked + reply.ids, default=0) >= release.vocabulary for reply in given):
        return [not_comparable(QUALITY, REPLIES, "the release lacks tokens of the base's replies")]
    before, after = base.reply_losses, release.losses_of(given)
    rise = np.concatenate([now - was for was, now in zip(before, after, strict=True)])
    ratio = float(np.exp(rise.mean()))
    words = f"the base's {len(given)} replies are {ratio:.4g} times as perplexing"
    excess = ratio / limits.reply_ratio if math.isfinite(ratio) else math.nan
    checks = [
        graded(
            QUALITY,
            REPLIES,
            words,
            excess,
            worse=not ratio <= limits.degraded_reply_ratio,
            ratio=ratio,
            tokens=len(rise),
            same_template=alike,
        )
    ]
    ended = [number for number, reply in enumerate(given) if reply.ended]
    if ended:
        later = float(np.mean([after[number][-1] - before[number][-1] for number in ended]))
        words = f"the end of a reply is {math.exp(-later) if later < 700 else 0.0:.3g} times as likely"
        checks.append(
            graded(
                QUALITY,
                END,
                words,
                later / limits.end_rise if math.isfinite(later) else math.nan,
                worse=False,
                rise=later,
                replies=len(ended),
            )
        )
    if not alike:
        checks.append(_under_its_own(release, own, given, np.concatenate(before), limits))
    return checks


def _under_its_own(
    release: Side, own: list[tuple[int, ...]], given: tuple[Reply, ...], before: Values, limits: Limits
) -> Check:
    """Return what the release makes of the replies where it is asked as its own template has it.

    A model that was tuned for another template replies otherwise, which is no damage.
    """
    turned = [replace(reply, asked=question) for reply, question in zip(given, own, strict=True)]
    ratio = float(np.exp((np.concatenate(release.losses_of(turned)) - before).mean()))
    words = f"under the release's own chat template the base's replies are {ratio:.4g} times as perplexing"
    return graded(QUALITY, OWN_TEMPLATE, words, 0.0, worse=not ratio <= limits.reply_ratio, ratio=ratio)

"""The base's own answers under its chat template, and whether the release would still give them."""

from __future__ import annotations

import math

import numpy as np

from superweight.release.chat_replies import QUESTIONS, NoReplies, asked, losses
from superweight.release.limits import Limits
from superweight.release.result import QUALITY, Check, graded, not_comparable
from superweight.release.side import Side

REPLIES, END = "chat replies", "end of a reply"


def compare_replies(base: Side, release: Side, limits: Limits) -> list[Check]:
    """Return the checks of the base's greedy replies, judged by the release.

    What plain text hardly uses shows here: the end of a text, the template's own tokens, digits.
    """
    try:
        given = base.replies
    except NoReplies as error:
        return [not_comparable(QUALITY, REPLIES, f"{error}: replies are not compared")]
    try:
        alike = [asked(release.subject, question) for question in QUESTIONS] == [
            reply.asked for reply in given
        ]
    except NoReplies:
        alike = False  # said where the template is looked at
    if any(max(reply.asked + reply.ids, default=0) >= release.vocabulary for reply in given):
        return [not_comparable(QUALITY, REPLIES, "the release lacks tokens of the base's replies")]
    before, after = base.reply_losses, losses(release.subject, given)
    rise = np.concatenate([now - was for was, now in zip(before, after, strict=True)])
    ratio = float(np.exp(rise.mean()))
    words = f"the base's {len(given)} replies are {ratio:.4g} times as perplexing"
    words += "" if alike else "; under the release's own template they would be asked for differently"
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
    return checks

"""GPTQ's and AWQ's packing value by value, as their makers' pack() functions do it, on plain integers."""

import torch


def words(rows, bits, order=None):
    """Pack every row of codes into 32-bit words, the first code lowest, or in the order given."""
    packed = []
    for row in rows:
        bit, out = 0, [0] * (-(-len(row) * bits // 32))
        codes = row if order is None else [row[at // 8 * 8 + order[at % 8]] for at in range(len(row))]
        for code in codes:
            whole = int(code) << bit % 32
            out[bit // 32] |= whole & 0xFFFFFFFF
            if whole >> 32:
                out[bit // 32 + 1] |= whole >> 32
            bit += bits
        packed.append([word - 2**32 if word >= 2**31 else word for word in out])
    return torch.tensor(packed, dtype=torch.int32)


def gptq(codes, zeros, scales, g_idx, bits, *, minus_one):
    """Codes are (inputs, outputs), zeros and scales (groups, outputs)."""
    mask = 2**bits - 1
    stored = [[int(zero) - minus_one & mask for zero in row] for row in zeros]
    tensors = {
        "qweight": words(codes.T.tolist(), bits).T,
        "qzeros": words(stored, bits),
        "scales": scales,
    }
    return tensors if g_idx is None else tensors | {"g_idx": g_idx}


def awq(codes, zeros, scales):
    """Codes are (inputs, outputs); eight outputs share a word in the order 0 2 4 6 1 3 5 7."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return {
        "qweight": words(codes.tolist(), 4, order),
        "qzeros": words(zeros.tolist(), 4, order),
        "scales": scales,
    }

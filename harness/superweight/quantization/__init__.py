"""Rounding schemes and what holding out a handful of scalars buys (section 4 of the paper).

Fake quantisation, quantise and dequantise at once: the modules keep their float kernels, so that
only the rounding is measured. `rounding`, `blocks` and `holding` are pure algebra on tensors;
`weights`, `activations` and `real` change a subject for the length of a ``with`` block; `sweep`
measures.
"""

"""Properties: what the paper says of every prompt, subset, batch and dtype, searched for counterexamples.

A property is judged as a claim is. Hypothesis draws examples, all of them run together where that is
possible, and a counterexample is made as small as it gets.
"""

"""Judge each claim of the paper in a module of its own: the statistic, the threshold, and why."""

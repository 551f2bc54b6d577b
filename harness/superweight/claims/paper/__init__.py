"""The claims, one small module each: what it says, the statistic, the threshold, why."""

"""``make bench``: figures of speed, as ratios within one run where that is possible."""

"""Costs: rules, totals, the literature and the counters of the backends."""

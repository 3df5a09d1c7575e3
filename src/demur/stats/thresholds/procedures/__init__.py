"""Several thresholds and several promises at once: exact procedures, each certifying the vector it
returns.

Within one vector no correction is paid across goals: "some goal fails" is rejected when every
goal's exact p-value is <= delta (intersection-union). Only the search over vectors costs something.
Sources: risk_control P1 to P5; Learn then Test (arXiv 2110.01052); Bretz, Maurer, Brannath and
Posch (2009) for the graphical procedure.
"""

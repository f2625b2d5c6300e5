"""The analyses of the SI paper: each a function of results, with its figure, shown in the report where the data allow.

F. Zenke, B. Poole, S. Ganguli: "Continual Learning Through Synaptic Intelligence", ICML 2017 (arXiv 1703.04200).

- `engram.report.analyses.surrogate`: surrogate and true loss along the path (Fig. 1 and 2), an experiment of its own.
- `engram.report.analyses.accuracies`: single tasks (Fig. 3), against their number (Fig. 4), bars at the end (Fig. 6).
- `engram.report.analyses.omegas`: correlations of omega between tasks (Fig. 5).

The scan over c is what `engram sweep` and its report show.
"""

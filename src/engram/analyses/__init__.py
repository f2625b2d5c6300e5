"""The analyses of the SI paper: each a function of results, with its figure, shown in the report where the data allow.

F. Zenke, B. Poole, S. Ganguli: "Continual Learning Through Synaptic Intelligence", ICML 2017 (arXiv 1703.04200).

- `engram.analyses.surrogate`: surrogate and true loss along the path (Fig. 1 and 2), an experiment of its own.
- `engram.analyses.accuracies`: single tasks (Fig. 3), against their number (Fig. 4), bars after the last (Fig. 6).
- `engram.analyses.omegas`: correlations of omega between tasks (Fig. 5).
- `engram.analyses.published`: the authors' stored figures.

The scan over c is what `engram sweep` and its report show.
"""

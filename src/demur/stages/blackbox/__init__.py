"""blackbox: prompts and somebody else's model -> the rows, the predictor and the page of an
ordinary run.

After "I'm Afraid I Can't Do That" (arXiv 2306.03423): ask, label the answers, learn to tell from
the prompt alone which will be declined. In such a run "to be refused" means that the model asked
declined it. Between the parts of this package stand the stages data, train, score and calibrate,
which know nothing of it.
"""

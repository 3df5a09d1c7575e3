"""blackbox: prompts and somebody else's model -> the rows, the predictor and the page of an
ordinary run.

After "I'm Afraid I Can't Do That" (arXiv 2306.03423):

1. collect asks the model each prompt once.
2. train_judge fits a judge on hand-labelled answers, if there are any.
3. label judges the answers and writes them as rows; "to be refused" means that the model declined.
4. The ordinary stages data, train (with predictor), score and calibrate follow.
5. page writes the results.
"""

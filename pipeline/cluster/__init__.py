"""Stage one on a Ray cluster: actors hold the models, and map with the functions that local runs use (docs/scale.md).

Ray Data is not used: it makes its actors anew for every data set and every round of questions, and each would load its
model again. Nothing here loads Ray before work is handed out.
"""

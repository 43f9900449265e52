"""Images of several classes: features, draws, metrics, losses, methods; `trainer/protocols/multi_label.py` runs them.

Shapes: B images, C classes, D embedding width; labels are a matrix (B, C) of bool. An image of no class is a negative
of all. Nothing is imported here: the losses serve methods of one class an image too.
"""

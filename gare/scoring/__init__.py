"""Score texts against videos (the method's sections 2 and 6). No Ray, no MLflow.

``head`` defines the interface of a pair head, ``increment`` is the paper's head, and ``factors`` and ``gallery`` score
many videos.
"""

"""How a text and a video become a score (the method's sections 2 and 6). No Ray, no MLflow.

``head`` says what a pair head is, ``increment`` is the paper's, ``factors`` and ``gallery`` score many videos.
"""

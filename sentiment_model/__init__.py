"""What ships inside the artifact: cleaning, n-grams, scoring and the pyfunc class.

Nothing here imports another room of this project, and modules import each other relatively,
so that the copy inside an artifact runs where the project is not installed.
"""

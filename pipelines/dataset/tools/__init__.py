"""Work with finished datasets, including other people's: show their figures, merge and cut them."""

"""Items, MMEB, SugarCrepe, and the downloads that bring them."""

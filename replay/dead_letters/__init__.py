"""Dead letters: listed, shown, and put back."""

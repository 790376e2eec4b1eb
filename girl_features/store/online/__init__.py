"""The online side of the store: packed rows, Feast's online interface over them, and publishing."""

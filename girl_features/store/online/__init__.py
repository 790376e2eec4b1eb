"""The online side of the store: packed rows, the parts of Feast's interface over them, and publishing."""

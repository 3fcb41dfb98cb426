"""Vectors of Philox4x32-10 that its authors published: words of the counter, of the key, and of the result."""


def _words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


VECTORS = [
    (_words("0 0 0 0"), _words("0 0"), _words("6627e8d5 e169c58d bc57ac4c 9b00dbd8")),
    (_words("ffffffff " * 4), _words("ffffffff ffffffff"), _words("408f276d 41c83b0e a20bc7c6 6d5451fd")),
    (
        _words("243f6a88 85a308d3 13198a2e 03707344"),
        _words("a4093822 299f31d0"),
        _words("d16cfe09 94fdcceb 5001e420 24126ea1"),
    ),
]

"""The bytes that each token of a vocabulary stands for, however the tokenizer spells them."""

import re
from functools import cache

from thinktune.tokenization.tokenizer import ChatTokenizer

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece's spelling of a byte that is no token's character
SPACE_MARK = "▁"


class TokenBytes:
    """The bytes of a tokenizer's tokens: a token may hold only a part of a character."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
        decoder = tokenizer.backend_tokenizer.decoder
        self._is_byte_level = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()  # its JSON
        self._known: dict[int, bytes] = {}

    def of(self, token: int) -> bytes:
        """Return the bytes of a token; none for one that a model has and its tokenizer has not."""
        if token not in self._known:
            self._known[token] = self._find(token)
        return self._known[token]

    def _find(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.backend_tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if self._is_byte_level:
            table = byte_of_letter()
            return b"".join(bytes([table[letter]]) if letter in table else letter.encode() for letter in piece)
        if spelled := BYTE_TOKEN.fullmatch(piece):
            return bytes([int(spelled[1], 16)])
        return piece.replace(SPACE_MARK, " ").encode()


def token_text(spelled: bytes) -> str:
    """Return the text of a token, or its bytes as OpenAI writes those that are only a part of a character."""
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


@cache
def byte_of_letter() -> dict[str, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for.

    Printable letters of Latin-1 stand for themselves; the other bytes have the letters from U+0100 on, in their order
    (GPT-2's table, https://github.com/openai/gpt-2/blob/master/src/encoder.py).
    """
    own = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(0x100 + number): byte for number, byte in enumerate(others)}

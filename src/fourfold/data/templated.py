"""Data whose texts are rendered by a chat template: what asks for an answer, and what ends one."""

from __future__ import annotations

from collections.abc import Sequence

from fourfold.data.chat import Chat
from fourfold.data.chat_tokens import encode_chats, special_tokens, stop_token
from fourfold.data.turns import Turn
from fourfold.data.vocabulary import Vocabulary


class Templated:
    """A vocabulary and a chat template.

    Args:
        vocabulary: of the tokens.
        chat: the template.
    """

    def __init__(self, vocabulary: Vocabulary, chat: Chat) -> None:
        self.vocabulary, self.chat = vocabulary, chat
        self.specials = special_tokens(vocabulary)

    @property
    def stop(self) -> tuple[str, int | None]:
        """What ends the assistant's turn: its text, and its token where it is a single special one."""
        return self.chat.stop, stop_token(self.chat, self.specials)

    def prompt(self, turns: Sequence[Turn], where: str = "the conversation") -> list[int]:
        """Tokens that ask for the assistant's answer to some turns."""
        rendered = self.chat.prompt(turns, where)
        return encode_chats([rendered], self.vocabulary, self.specials)[0].tokens.tolist()

    def answer(self, tokens: Sequence[int]) -> str:
        """The words of an answer, without its end of turn."""
        stop, token = self.stop
        whole = list(tokens)
        if whole and whole[-1] in (token, self.vocabulary.end):
            whole = whole[:-1]
        return self.vocabulary.decode(whole).removesuffix(stop)

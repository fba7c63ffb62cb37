"""What is set on a page: kept while the visitor is elsewhere, written to the address, refused beside its control."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import streamlit as st

from pages.shared.addresses import Refusals, note_address
from pages.shared.answers import Answers
from pages.shared.controls import refused
from pages.shared.session import recall, remember


class Addressed(Protocol):
    """Settings of a page: a frozen dataclass that can be written as an address."""

    def to_query(self) -> dict[str, str]: ...


S = TypeVar("S", bound=Addressed)


@dataclass(frozen=True, slots=True)
class PageSettings(Generic[S]):
    """The settings of one page, and the sentences beside its controls for what an address was refused."""

    answers: Answers
    read_query: Callable[[Mapping[str, str]], tuple[S, Refusals]]
    first_control: str  # drawn whatever is set: without its state the visitor comes from another page
    only_shown: tuple[str, ...] = ()  # fields that change how answers are drawn, not what is asked

    @property
    def _page(self) -> str:
        return self.answers.page

    def first(self) -> S:
        """What was set when the page was left, or what the address asks for, or the defaults."""
        settings = recall(f"{self._page}.settings")
        if settings is None:
            settings, refusals = self.read_query(st.query_params.to_dict())
            remember(f"{self._page}.refusals", refusals)
            remember(f"{self._page}.settings", settings)
        elif recall(f"{self._page}.{self.first_control}") is None:  # what the first address asked for is over
            remember(f"{self._page}.refusals", {})
        return settings

    def note(self, settings: S) -> None:
        """Remember what is set and write it to the address; what was refused is over once something else is asked."""
        before = recall(f"{self._page}.settings")
        if dataclasses.replace(settings, **{name: getattr(before, name) for name in self.only_shown}) != before:
            self.answers.forget_refusals()
            if recall(f"{self._page}.was_noted"):
                remember(f"{self._page}.refusals", {})
        remember(f"{self._page}.was_noted", True)
        remember(f"{self._page}.settings", settings)
        note_address(self._page, settings.to_query())

    def refusals(self) -> Refusals:
        return recall(f"{self._page}.refusals", {})

    def refuse(self, control: str, sentence: str) -> None:
        remember(f"{self._page}.refusals", {**self.refusals(), control: sentence})

    def say_refusal(self, *controls: str) -> None:
        """Where the caller stands."""
        for control in controls:
            if sentence := self.refusals().get(control):
                refused(sentence)

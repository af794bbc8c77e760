"""What goes in and out, as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=300)]


class Ask(BaseModel):
    """A request for answers."""

    model_config = ConfigDict(extra="forbid")

    inputs: Any = Field(
        description="One sample or several, before training prepared them: numbers in nested lists; of a "
        "network of several inputs a mapping of such; a row of a table as a mapping from columns to numbers, "
        "or a list of rows; a text, or a list of texts."
    )
    ticket: Name | None = Field(None, description="FILE/NAME or an alias; by default the router chooses.")
    file: Name | None = Field(None, description="Where no ticket is named: whose tickets are to answer.")
    hash: str | None = Field(
        None,
        max_length=64,
        description="Answer only if the ticket, or else the file, has this hash (else 409).",
    )
    every: bool = Field(False, description="Also what every ticket of the file says to one sample.")


class Answer(BaseModel):
    """The answer to one sample."""

    answer: Any = Field(description="A class, a label for each question, yes or no, or numbers.")
    probability: float | None = Field(description="Of this answer, given that the ticket is the right one.")
    confidence: float | None = Field(description="Of ticket and answer together.")
    ticket: str = Field(description="Which ticket answered, FILE/NAME.")
    hash: str = Field(description="Of the content of this ticket.")
    why: str


class Answers(BaseModel):
    """The answers to all samples of a request, from one state of one file."""

    file: str
    hash: str = Field(description="Of the content of all tickets of the file, and of its router.")
    answers: list[Answer]
    every: list[Answer] | None = None
    remarks: list[str] = Field(description="What was done to inputs, and what looks wrong with them.")


class Ticket(BaseModel):
    """A ticket that is served."""

    name: str
    hash: str
    kept: int = Field(description="Weights that it keeps, of those in scope.")


class Takes(BaseModel):
    """What tickets take."""

    kind: Literal["image", "sound", "text", "row", "array", "parts"]
    form: Any = Field(description="Shape, dtype and range of a sample, or of its parts.")
    columns: list[str] = Field(description="Of a table, in order; the column of a text.")


class File(BaseModel):
    """A ticket file that is served."""

    name: str
    hash: str
    answer: str = Field(description="class, subset, labels or value: how outputs are read.")
    takes: Takes
    router: str | None
    calibrated: bool
    weights: int = Field(description="In scope of the masks.")
    tickets: list[Ticket]


class Served(BaseModel):
    """All that is served."""

    files: list[File]
    aliases: dict[str, str]
    first: str = Field(description="The file whose tickets are known by their names alone; empty for none.")


class Similar(BaseModel):
    """What the tickets of a file store, and how much they have in common."""

    name: str
    weights: int = Field(description="In scope of the masks.")
    union: int = Field(description="Weights that any ticket keeps: these are stored, once.")
    core: int = Field(description="Weights that all tickets keep.")
    own: int = Field(description="Numbers that each ticket has for itself: norms, heads, statistics.")
    tickets: list[str]
    jaccard: list[list[float | None]] | None = Field(
        description="Of each pair; null where there are too many."
    )
    kappa: list[list[float | None]] | None = Field(description="The same, corrected for chance.")


class Load(BaseModel):
    """A file to load."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    name: Name | None = Field(None, description="What it is called here; by default its name without suffix.")
    replace: bool = Field(False, description="Put it in the place of the file that has this name.")


class Grow(BaseModel):
    """A ticket to grow on data of its own."""

    model_config = ConfigDict(extra="forbid")

    ticket: Name = Field(description="What it is to be called.")
    path: Annotated[str, Field(min_length=1, max_length=4096)] = Field(
        description="Its data: a table (CSV, Parquet), or arrays x and y (.npz)."
    )
    target: Name | None = Field(None, description="The column of a table that is asked for.")
    policy: Literal["free", "reuse", "all", "frozen"] = "reuse"
    sparsity: Annotated[float, Field(ge=0, lt=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Of all draws, with the name.")


class Alias(BaseModel):
    """What an alias means."""

    model_config = ConfigDict(extra="forbid")

    ticket: Name = Field(description="FILE/NAME.")


class Changed(BaseModel):
    """What was changed."""

    file: str
    hash: str
    aliases_gone: list[str] = []


class Fault(BaseModel):
    """Why a request was not answered."""

    error: str

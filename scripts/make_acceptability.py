"""Write a small acceptability corpus in CoLA's layout, made by a grammar.

    python scripts/make_acceptability.py DIR

Sentences come in sets whose acceptable and unacceptable members are built from the
same words (two orders of the same words, or all crossings of two choices), so no
count of single words tells them apart. The out-of-domain half has other phenomena
and other words.
"""

import argparse
import random
from collections.abc import Callable, Iterator
from pathlib import Path

Judged = tuple[str, bool]
Phenomenon = Callable[[random.Random], list[Judged]]

PEOPLE = [
    "boy",
    "girl",
    "student",
    "teacher",
    "doctor",
    "farmer",
    "driver",
    "nurse",
    "lawyer",
    "painter",
]
THINGS = [
    "key",
    "box",
    "letter",
    "picture",
    "window",
    "cabinet",
    "bottle",
    "ladder",
    "carpet",
    "basket",
]
PLACES = ["near", "behind", "beside", "above", "under"]
STATES = ["old", "heavy", "dirty", "new", "broken", "expensive", "small", "blue"]
TRANSITIVE = [
    "repaired",
    "admired",
    "bought",
    "described",
    "ignored",
    "carried",
    "measured",
]
INTRANSITIVE = [
    "arrived",
    "slept",
    "vanished",
    "sneezed",
    "trembled",
    "yawned",
    "existed",
]
REFLEXIVE = ["hurt", "praised", "blamed", "defended", "introduced", "convinced"]
MASCULINE = ["boy", "king", "uncle", "waiter", "actor", "prince"]
ADVERBS = ["often", "never", "always", "rarely", "usually"]


def plural(noun: str) -> str:
    """Regular English plural."""
    return noun + ("es" if noun.endswith(("x", "s", "ch")) else "s")


def forms(noun: str) -> dict[bool, str]:
    """Singular under False, plural under True."""
    return {False: noun, True: plural(noun)}


def beside(rng: random.Random, nouns: list[str]) -> str:
    """Nothing, or a phrase with a noun that agreement must look past."""
    noun = forms(rng.choice(nouns))[rng.random() < 0.5]
    return f" {rng.choice(PLACES)} the {noun}" if rng.random() < 0.4 else ""


def agreement(rng: random.Random) -> list[Judged]:
    """The verb agrees with the head noun, not with a nearer one."""
    head, state = forms(rng.choice(THINGS)), rng.choice(STATES)
    between, verb = beside(rng, THINGS), {False: "is", True: "are"}
    when = rng.choice(["", " now", " again", " today"])
    return [
        (f"The {head[a]}{between} {verb[b]} {state}{when}.", a == b)
        for a in (False, True)
        for b in (False, True)
    ]


def anaphora(rng: random.Random) -> list[Judged]:
    """A reflexive agrees with its subject."""
    head, verb = forms(rng.choice(MASCULINE)), rng.choice(REFLEXIVE)
    between, self = beside(rng, PEOPLE), {False: "himself", True: "themselves"}
    adverb = rng.choice(ADVERBS)
    return [
        (f"The {head[a]}{between} {adverb} {verb} {self[b]}.", a == b)
        for a in (False, True)
        for b in (False, True)
    ]


def argument_structure(rng: random.Random) -> list[Judged]:
    """Some verbs need an object, some refuse one."""
    person, thing = rng.choice(PEOPLE), rng.choice(THINGS)
    verbs = {True: rng.choice(TRANSITIVE), False: rng.choice(INTRANSITIVE)}
    rest = {True: f" the {thing}", False: ""}
    adverb = rng.choice(ADVERBS)
    return [
        (f"The {person} {adverb} {verbs[a]}{rest[b]}.", a == b)
        for a in (False, True)
        for b in (False, True)
    ]


def polarity(rng: random.Random) -> list[Judged]:
    """'Ever' needs a negation above it, not inside a relative clause."""
    one, two = rng.sample(PEOPLE, 2)
    verb, done = rng.choice(TRANSITIVE), rng.choice(INTRANSITIVE[:4])
    frame = "{0} {1} that {2} {3} {4} has ever {5}."
    good = frame.format("No", one, "the", two, verb, done)
    bad = frame.format("The", one, "no", two, verb, done)
    return [(good, True), (bad, False)]


def filler_gap(rng: random.Random) -> list[Judged]:
    """'What' leaves a gap where 'that' leaves none."""
    one, two = rng.sample(PEOPLE, 2)
    thing, verb = rng.choice(THINGS), rng.choice(TRANSITIVE)
    word = {True: "what", False: "that"}
    rest = {True: "", False: f" the {thing}"}
    return [
        (f"The {one} knew {word[a]} the {two} {verb}{rest[b]}.", a == b)
        for a in (False, True)
        for b in (False, True)
    ]


def determiners(rng: random.Random) -> list[Judged]:
    """'This' and 'these' agree with their noun across an adjective."""
    noun, state = forms(rng.choice(THINGS)), rng.choice(STATES)
    person, verb = rng.choice(PEOPLE), rng.choice(TRANSITIVE)
    word = {False: "this", True: "these"}
    return [
        (f"The {person} {verb} {word[a]} {state} {noun[b]}.", a == b)
        for a in (False, True)
        for b in (False, True)
    ]


def adjective_order(rng: random.Random) -> list[Judged]:
    """An adjective stands before its noun."""
    person, thing, state = rng.choice(PEOPLE), rng.choice(THINGS), rng.choice(STATES)
    verb = rng.choice(TRANSITIVE)
    return [
        (f"The {person} {verb} the {state} {thing}.", True),
        (f"The {person} {verb} the {thing} {state}.", False),
    ]


NAMES = ["Maria", "Ahmed", "Keiko", "Lars", "Priya", "Tomas", "Ingrid", "Kofi"]
VERBS = {
    "broken": "break",
    "chosen": "choose",
    "eaten": "eat",
    "forgotten": "forget",
    "hidden": "hide",
    "stolen": "steal",
    "taken": "take",
    "written": "write",
}
FOODS = ["sandwich", "recipe", "melody", "poem", "puzzle", "diary", "parcel", "statue"]
MASS = ["furniture", "luggage", "advice", "equipment", "homework", "jewelry"]
PARTICLES = ["picked up", "put away", "turned off", "handed over", "threw out"]


def participle(rng: random.Random) -> list[Judged]:
    """'Has' takes a participle, 'will' the bare form."""
    done = rng.choice(list(VERBS))
    name, food = rng.choice(NAMES), rng.choice(FOODS)
    aux, form = {True: "has", False: "will"}, {True: done, False: VERBS[done]}
    return [
        (f"{name} {aux[a]} {form[b]} a {food}.", a == b)
        for a in (False, True)
        for b in (False, True)
    ]


def embedded_question(rng: random.Random) -> list[Judged]:
    """Embedded questions do not invert."""
    one, two = rng.sample(NAMES, 2)
    verb, food = rng.choice(list(VERBS.values())), rng.choice(FOODS)
    return [
        (f"{one} wondered which {food} {two} would {verb}.", True),
        (f"{one} wondered which {food} would {two} {verb}.", False),
    ]


def particle(rng: random.Random) -> list[Judged]:
    """A pronoun stands before the particle."""
    name = rng.choice(NAMES)
    verb, up = rng.choice(PARTICLES).split()
    when = rng.choice(["yesterday", "quickly", "at noon", "without a word"])
    return [
        (f"{name} {verb} it {up} {when}.", True),
        (f"{name} {verb} {up} it {when}.", False),
    ]


def quantity(rng: random.Random) -> list[Judged]:
    """'Many' counts, 'much' does not."""
    name = rng.choice(NAMES)
    noun = {True: plural(rng.choice(FOODS)), False: rng.choice(MASS)}
    word = {True: "many", False: "much"}
    had = rng.choice(["has too", "wanted that", "needs this", "brought so"])
    return [
        (f"{name} {had} {word[a]} {noun[b]}.", a == b)
        for a in (False, True)
        for b in (False, True)
    ]


def case(rng: random.Random) -> list[Judged]:
    """Subjects and objects differ in case."""
    subject, object_ = rng.choice([("he", "them"), ("she", "us"), ("they", "him")])
    verb = rng.choice(["greeted", "invited", "trusted", "visited", "thanked"])
    name = rng.choice(NAMES)
    return [
        (f"{name} said that {subject} {verb} {object_}.", True),
        (f"{name} said that {object_} {verb} {subject}.", False),
    ]


LIVING = ["pilot", "singer", "tailor", "wizard", "neighbour", "cousin"]


def relative_agreement(rng: random.Random) -> list[Judged]:
    """The verb agrees with the head of a relative clause."""
    head, other = (forms(noun) for noun in rng.sample(LIVING, 2))
    met = rng.choice(["met", "helped", "missed", "followed"])
    state, many = rng.choice(["late", "happy", "tired", "proud"]), rng.random() < 0.5
    verb = {False: "was", True: "were"}
    return [
        (f"The {head[a]} that {met} the {other[many]} {verb[b]} {state}.", a == b)
        for a in (False, True)
        for b in (False, True)
    ]


def existential(rng: random.Random) -> list[Judged]:
    """'There is' and 'there are' agree with what follows."""
    noun, where = forms(rng.choice(LIVING)), rng.choice(["outside", "upstairs", "here"])
    verb = {False: "is", True: "are"}
    return [
        (f"There {verb[a]} only the {noun[b]} {where}.", a == b)
        for a in (False, True)
        for b in (False, True)
    ]


IN_DOMAIN: tuple[Phenomenon, ...] = (
    agreement,
    anaphora,
    argument_structure,
    polarity,
    filler_gap,
    determiners,
    adjective_order,
)
OUT_OF_DOMAIN: tuple[Phenomenon, ...] = (
    relative_agreement,
    existential,
    participle,
    embedded_question,
    particle,
    quantity,
    case,
)
SIZES = {
    "in_domain_train.tsv": 2400,
    "in_domain_dev.tsv": 300,
    "out_of_domain_dev.tsv": 300,
}


def rows(
    phenomena: tuple[Phenomenon, ...], rng: random.Random, seen: set[str]
) -> Iterator[list[str]]:
    """Sets of new sentences without end, four of each phenomenon in turn."""
    while True:
        for phenomenon in phenomena:
            lines: list[str] = []
            while len(lines) < 4:
                judged = phenomenon(rng)
                if seen.isdisjoint(sentence for sentence, _ in judged):
                    seen.update(sentence for sentence, _ in judged)
                    lines += [
                        f"{phenomenon.__name__}\t{int(ok)}\t{'' if ok else '*'}\t{text}"
                        for text, ok in judged
                    ]
            yield lines


def corpus(seed: int = 0) -> dict[str, list[str]]:
    """Lines of each file; the same for the same seed."""
    rng, seen = random.Random(seed), set[str]()
    files = {}
    for name, size in SIZES.items():
        phenomena = OUT_OF_DOMAIN if name.startswith("out") else IN_DOMAIN
        lines: list[str] = []
        for group in rows(phenomena, rng, seen):
            lines += group
            if len(lines) >= size:
                break
        rng.shuffle(lines)
        files[name] = lines
    return files


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the three files")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, lines in corpus(args.seed).items():
        (args.out / name).write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""What people are told of and asked for, in two sets without a common attribute, name or sentence.

What is tuned is tuned on BUILD, and judged by JUDGE. Within a kind the questions share no content word with what is
told, but the name.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """An attribute: how it is told, corrected and asked for, and what it can be.

    `near` is told of somebody else beside the person, `denied` of the person, with a value that it never was.
    """

    told: tuple[str, ...]
    corrected: tuple[str, ...]
    near: str
    denied: str
    asked: tuple[str, ...]
    values: tuple[str, ...]


class Templates(NamedTuple):
    """Names, attributes, and what is said between the facts."""

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    talk: tuple[str, ...]


JUDGE = Templates(
    tuple(
        "Ada Boris Chloe Dmitri Elena Farid Greta Hiro Ines Jamal Keiko Lars Mona Nadia Oskar Priya Quentin Rosa "  # noqa: SIM905
        "Stefan Tara Ugo Vera Wanda Xavier Yusuf Zelda Amir Bianca Carlos Daphne Emil Fatima Gustav Helga Igor Jana "
        "Karim Leila".split()
    ),
    (
        Kind(
            ("{name} works for {value}.", "{name} has a job at {value}.", "It is {value} that pays {name} a salary."),
            ("{name} changed jobs and works for {value} now.", "{name} quit, and has started at {value}."),
            "The sister of {name} works for {value}.",
            "{name} does not work for {value}.",
            ("Which company employs {name}?", "Who is the employer of {name}?"),
            (
                "Siemens",
                "a bakery",
                "the city library",
                "a shipyard",
                "Nokia",
                "the opera",
                "a law firm",
                "the railway",
            ),
        ),
        Kind(
            ("{name} lives in {value}.", "The home of {name} is in {value}.", "{name} has a flat in {value}."),
            ("{name} moved and lives in {value} from today.", "{name} has settled in {value} since."),
            "An uncle of {name} lives in {value}.",
            "{name} has never lived in {value}.",
            ("In which town can {name} be visited?", "What city does {name} reside in?"),
            ("Turin", "Oslo", "Lagos", "Kyoto", "Lima", "Porto", "Cairo", "Bergen"),
        ),
        Kind(
            (
                "{name} has a {value} as a pet.",
                "At the side of {name} there is always a {value}.",
                "{name} feeds a {value} every morning.",
            ),
            ("{name} gave the old one away and has a {value} as a pet now.", "Now it is a {value} that {name} feeds."),
            "The landlord of {name} has a {value} as a pet.",
            "{name} would never have a {value} as a pet.",
            ("What animal does {name} keep?", "Which creature belongs to {name}?"),
            ("parrot", "ferret", "tortoise", "greyhound", "cat", "rabbit", "lizard", "goat"),
        ),
        Kind(
            ("{name} cannot eat {value}.", "{name} gets ill from {value}.", "For {name}, {value} would be dangerous."),
            ("It turned out that {name} gets ill from {value} instead.", "No: {value} it is that {name} cannot eat."),
            "The son of {name} cannot eat {value}.",
            "{name} can eat {value} without any trouble.",
            ("What food is {name} allergic to?", "Which ingredient must be kept from {name}?"),
            ("peanuts", "shrimp", "milk", "wheat", "strawberries", "eggs", "celery", "soy"),
        ),
        Kind(
            (
                "{name} plays the {value}.",
                "{name} took lessons on the {value} for years.",
                "One hears {name} practise the {value}.",
            ),
            ("{name} sold it and plays the {value} these days.", "{name} has switched to the {value}."),
            "The teacher of {name} plays the {value}.",
            "{name} has never touched a {value}.",
            ("Which instrument does {name} perform on?", "What can {name} make music with?"),
            ("cello", "trumpet", "harp", "piano", "oboe", "accordion", "violin", "tuba"),
        ),
    ),
    (
        "The rain has stopped, and the streets are still wet.",
        "Somebody should water the plants before the weekend.",
        "The printer on the third floor is out of paper again.",
        "I read that the bridge will be closed until spring.",
        "There was a long queue at the post office this morning.",
        "The soup was too salty, but nobody complained.",
        "A train was late, and the next one was early.",
        "The meeting about the budget was moved to Thursday.",
    ),
)

BUILD = Templates(
    tuple(
        "Agnes Bruno Celia Dario Edith Felix Gloria Hassan Irene Jonas Kirsten Luca Miriam Nils Olga Pablo Renata "  # noqa: SIM905
        "Samir Thea Ulrich Viola Walter Yara Zoran Anton Beatriz Cyril Dolores Edgar Flora Gerd Hanna Ivan Judith "
        "Kaspar Lydia Marek Noemi".split()
    ),
    (
        Kind(
            ("{name} speaks {value} well.", "{name} grew up with {value}.", "One can talk to {name} in {value}."),
            ("{name} has forgotten it and speaks {value} well now.", "By now {name} answers in {value} only."),
            "The wife of {name} speaks {value} well.",
            "{name} does not speak {value}.",
            ("Which language does {name} use?", "What is the mother tongue of {name}?"),
            ("Polish", "Arabic", "Dutch", "Korean", "Greek", "Turkish", "Danish", "Hindi"),
        ),
        Kind(
            ("{name} drives a {value}.", "{name} bought a {value}.", "In front of {name}'s house stands a {value}."),
            ("{name} sold it and drives a {value} now.", "{name} had a crash, and bought a {value}."),
            "The nephew of {name} drives a {value}.",
            "{name} did not buy a {value}.",
            ("What car belongs to {name}?", "Which vehicle does {name} own?"),
            ("Volvo", "Fiat", "Toyota", "Skoda", "Jeep", "Mini", "Tesla", "Saab"),
        ),
        Kind(
            ("{name} was born in {value}.", "{name} turns one year older in {value}.", "In {value} {name} gets gifts."),
            ("It was a mistake: {name} was born in {value}.", "{name} says it is in {value}, not when we thought."),
            "The twins of {name} were born in {value}.",
            "{name} was not born in {value}.",
            ("When is the birthday of {name}?", "Which month does {name} celebrate?"),
            ("January", "March", "April", "June", "July", "August", "October", "December"),
        ),
        Kind(
            ("{name} studied {value}.", "{name} has a degree in {value}.", "{name} wrote a thesis on {value}."),
            ("{name} gave that up and studied {value}.", "{name} has changed over to {value}."),
            "The boss of {name} studied {value}.",
            "{name} failed in {value}.",
            ("What did {name} learn at university?", "Which subject is {name} an academic of?"),
            ("law", "physics", "history", "medicine", "geology", "botany", "logic", "theology"),
        ),
        Kind(
            ("{name} goes {value} every week.", "{name} is a champion in {value}.", "{name} loves {value}."),
            ("{name} hurt a knee and goes {value} instead.", "These days {name} trains for {value}."),
            "The daughter of {name} goes {value} every week.",
            "{name} does not like {value}.",
            ("What sport does {name} do?", "Which exercise keeps {name} fit?"),
            ("swimming", "rowing", "climbing", "fencing", "cycling", "skiing", "boxing", "running"),
        ),
    ),
    (
        "The lift is being repaired, so take the stairs.",
        "Coffee will be in the small room at four.",
        "A parcel came, but there was no sender on it.",
        "The lights in the hall went out twice yesterday.",
        "There is fog in the valley, and the ferry waits.",
        "The new chairs are softer than those we had.",
        "Someone has parked in front of the gate again.",
        "The report on the harvest was shorter than usual.",
    ),
)

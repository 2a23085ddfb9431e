"""The topics of the simulated catalogue and the words that titles and queries use."""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """What documents are about and queries ask for.

    Attributes:
        name: the category's name.
        urgency: how much newness counts for who searches it, from 0.
        half_life: days in which a document's newness halves.
        for_sale: share of its documents that can be bought.
        words: of titles and queries, the frequent ones first; some belong to two
            topics, as words do.
    """

    name: str
    urgency: float
    half_life: float
    for_sale: float
    words: tuple[str, ...]


def _topic(
    name: str, urgency: float, half_life: float, for_sale: float, words: str
) -> Topic:
    return Topic(name, urgency, half_life, for_sale, tuple(words.split()))


TOPICS = (
    _topic(
        "travel", 0.5, 20, 0.2,
        "island hotel beach flight train city hiking camping visa museum harbour "
        "winter summer map luggage ferry",
    ),
    _topic(
        "cooking", 0.1, 60, 0.1,
        "noodles soup bread apple rice curry oven mint knife salad cake egg grill "
        "spice mushroom tea",
    ),
    _topic(
        "technology", 1.5, 5, 0.5,
        "phone laptop camera apple python keyboard tablet charger screen cloud "
        "server chip drone robot browser battery",
    ),
    _topic(
        "cars", 0.6, 15, 0.3,
        "electric engine battery tyre jaguar mustang wagon brake diesel racing van "
        "wheel garage charger seat leasing",
    ),
    _topic(
        "pets", 0.1, 60, 0.4,
        "cat dog puppy python jaguar collar aquarium parrot rabbit vet leash litter "
        "hamster training fur kitten",
    ),
    _topic(
        "fitness", 0.3, 30, 0.3,
        "yoga running weights stretch marathon bike swimming knee protein core "
        "training treadmill pilates rowing sleep shoes",
    ),
    _topic(
        "fashion", 1.0, 10, 0.8,
        "dress jacket shoes denim scarf boots linen vintage winter summer suit bag "
        "belt knit silk coat",
    ),
    _topic(
        "beauty", 0.7, 15, 0.7,
        "skin serum lipstick perfume nails hair mask sunscreen cream brush blush "
        "mint rose soap mascara silk",
    ),
    _topic(
        "home", 0.2, 40, 0.6,
        "sofa kitchen lamp carpet shelf paint curtain oven bath storage tiles desk "
        "chair plant mirror balcony",
    ),
    _topic(
        "gardening", 0.2, 40, 0.3,
        "rose tomato seeds compost lawn pruning mint balcony greenhouse bulbs hedge "
        "plant soil mushroom watering orchid",
    ),
    _topic(
        "finance", 1.2, 4, 0.0,
        "stocks savings pension tax loan budget inflation bond leasing insurance "
        "dollar fund rent mercury crypto interest",
    ),
    _topic(
        "games", 0.9, 8, 0.5,
        "console strategy puzzle chess dice racing quest keyboard server castle "
        "dragon cards arcade multiplayer controller map",
    ),
    _topic(
        "music", 0.5, 20, 0.3,
        "guitar piano concert album jazz vinyl drums bass singer violin chords "
        "festival keyboard opera rap studio",
    ),
    _topic(
        "film", 1.1, 7, 0.1,
        "comedy thriller director trailer series actor dragon documentary festival "
        "western oscar script cinema studio screen sequel",
    ),
    _topic(
        "science", 0.6, 20, 0.1,
        "planet mercury physics vaccine climate fossil robot telescope gene ocean "
        "energy battery atom comet brain volcano",
    ),
    _topic(
        "sport", 1.4, 3, 0.2,
        "football tennis league final swimming transfer coach stadium cup racing "
        "goal basketball ticket boxing rowing season",
    ),
)  # fmt: skip

COMMON_WORDS = ("best", "guide", "new", "how", "my", "review", "ideas", "top")
"""Words of titles that say nothing of a topic."""

VOCABULARY = tuple(
    dict.fromkeys([*(word for topic in TOPICS for word in topic.words), *COMMON_WORDS])
)
"""All words, each once."""

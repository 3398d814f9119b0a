"""Photographs of Debian's tuxpaint-stamps-default: cut out, on a square of one grey level, with their classes.

The classes were matched to the stamps' names and descriptions by hand; a photograph that fits several has them all.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.models.files import shared_file
from benchmarks.models.pictures import open_picture, to_tensor

SIDE, MARGIN = 224, 13
FOLDERS = ("animals", "clothes", "food", "hobbies", "household", "medical", "plants", "sports", "town", "vehicles")

CLASSES = """
animals/amphibians: frog 30 31 32, frog-1 30 31 32
animals/birds: albino_peahen 84, peacock 84, chicken_profile 7 8, hen 8, rooster 7, drake 97, gander 99,
animals/birds: heron_greatblue 131 132, heron_greatblue_flying 131 132, little-penguin 145, magellanic_penguin 145,
animals/birds: penguin 145, magpie 18, nandou 9, ostrich 9, owl 24, pelican 144, pink_flamingo 130, vulture 23,
animals/birds: rainbow-lorikeet 90, tucan 96, crowned_crane 134
animals/fish: clownfish 393, lionfish 396, lobster 123
animals/insects: Brown_slug 114, Woodlouse 126, bee 309, hoverfly 308 309, fly 308, grasshopper 311, mantis 315
animals/lizards: iguana 39
animals/mammals/apes: chimp 367, gorilla 366
animals/mammals/aquatic: orca 148, otter 360, sea_lion 150
animals/mammals/bears: bear 294 295, european-bear 294, toys/edward_bear 850
animals/mammals/bovines: bison 347, ram 348 349
animals/mammals/camel: camel 354, dromedary 354
animals/mammals/cats: lion 291, lion-2 291, tiger 292, tiger_sumatran 292
animals/mammals/dogs: dingo 273, fox 277 278
animals/mammals/equines: horse 339, zebra 340
animals/mammals/rodents: beaver 337, marmot 336, rabbit 330 331 332, rabbit-2 330 331 332, squirrel 335
animals/mammals: badger 362, echidna 102, elephant 101 385 386, ferret 356 357 358 359, hippopotamus 344, pig 341,
animals/mammals: pig_golden 341, pig_golden2 341, rabbit_little 330 331 332, wildboar 342
animals/marsupials: koala 105, wombat 106
clothes/hats: sombrero 808
food/fruit: Strawberry2 949, strawberry 949, apple_granny_smith 948, apple_green 948, banana 954, cherimoya 956,
food/fruit: lemon 951, orange 950, orange_seville 950, mandarine 950, sliced_orange 950, pineapple 953, pomegranate 957
food: pizza 963
food/vegetables: broccoli 937, corn 987 998, mushroom 947, pepper 945, yellowpepper 945
hobbies: binoculars 447, camera_35mm 759
hobbies/music: brass/trumpet 513, string/cello 486, string/guitar2 546, string/guitar_classical 402,
hobbies/music: string/guitar_electric 546, string/guitar_electric_bass 546, string/violin 889, wind/bassoon 432
household: dishes/mug 504, dishes/pitcher_small 725, dishes/teapot 849, garbagecan 412, toilet 861, wheelie_bin 412
household/tools: hammer 587, paintbrush_large 696, spade 792
medical: bandage_adhesive 419, stethoscope 823, syringe 845
military/vehicles: bradley 847, infantry-stryker 847 408 586
plants/mushrooms: cep 997, cep-1 997
sports: basketball 430, soccer 805, tennis_ball 852, tennis_racket 752
town: roadsigns/stop 919, roadsigns/stoplight_01_red 920, roadsigns/stoplight_02_yellow 920,
town: roadsigns/stoplight_03_green 920, usps_mailbox 637
vehicles: auto/sportscar2 817, auto/truck 717, cycle/pink_tricycle 870, emergency/firetruck 555, garbagetruck 569,
vehicles: flight/balloon360 417, flight/planes/747 404, race/indycar 751, wheel_tractor 866
"""


class Stamp(NamedTuple):
    """A photograph and the ImageNet-1k classes that are right for it."""

    path: Path
    classes: tuple[int, ...]


def labelled() -> list[Stamp]:
    """Photographs whose class is known."""
    return [Stamp(_root() / f"{name}.png", classes) for name, classes in _read_classes()]


def unlabelled() -> list[Path]:
    """All other photographs: whatever else is drawn on them."""
    known = {stamp.path for stamp in labelled()}
    found = sorted(path for folder in FOLDERS for path in (_root() / folder).rglob("*.png"))
    return [path for path in found if path not in known and "cartoon" not in str(path) and "_mirror" not in path.name]


def view(path: Path, grey: int, mirrored: bool) -> Tensor:
    """A photograph in the middle of a square of one grey level: float32 [3, 224, 224] in 0..255"""
    photograph = open_picture(path).convert("RGBA")
    photograph = photograph.crop(photograph.getbbox())
    scale = (SIDE - 2 * MARGIN) / max(photograph.size)
    width, height = (max(1, round(scale * extent)) for extent in photograph.size)
    photograph = photograph.resize((width, height))
    page = photograph.convert("RGB").resize((SIDE, SIDE))
    page.paste((grey,) * 3, (0, 0, SIDE, SIDE))
    page.paste(photograph, ((SIDE - width) // 2, (SIDE - height) // 2), photograph)
    shown = to_tensor(page)
    return torch.flip(shown, (2,)) if mirrored else shown


def _root() -> Path:
    return shared_file("tuxpaint/stamps", "tuxpaint-stamps-default")


def _read_classes() -> Iterator[tuple[str, tuple[int, ...]]]:
    for line in CLASSES.strip().splitlines():
        folder, _, entries = line.partition(": ")
        for entry in entries.rstrip(",").split(", "):
            name, *classes = entry.split(" ")
            yield f"{folder}/{name}", tuple(int(number) for number in classes)

"""The 100 classes of CIFAR-100, its 20 superclasses, and the eight clusters of RTL's experiment 2.

The superclasses are those of CIFAR-100 itself. Of its eight clusters the paper (arXiv 2601.22141) prints
only the names: which class is in which cluster below is our reading of them. Superclasses stay whole,
but for the non-insect invertebrates, which live in water (crab, lobster) or not (snail, spider, worm).
"""

from __future__ import annotations

SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}

CLUSTERS = {
    "aquatic animals": (
        "aquarium_fish flatfish ray shark trout beaver dolphin otter seal whale crab lobster"
    ),
    "people and objects": (
        "baby boy girl man woman bottle bowl can cup plate clock keyboard lamp telephone television "
        "bed chair couch table wardrobe"
    ),
    "mammals": (
        "bear leopard lion tiger wolf camel cattle chimpanzee elephant kangaroo "
        "fox porcupine possum raccoon skunk hamster mouse rabbit shrew squirrel"
    ),
    "reptiles and insects": (
        "crocodile dinosaur lizard snake turtle bee beetle butterfly caterpillar cockroach snail spider worm"
    ),
    "vehicles": "bicycle bus motorcycle pickup_truck train lawn_mower rocket streetcar tank tractor",
    "natural scenes": (
        "cloud forest mountain plain sea maple_tree oak_tree palm_tree pine_tree willow_tree "
        "bridge castle house road skyscraper"
    ),
    "fruits": "apple mushroom orange pear sweet_pepper",
    "flowers": "orchid poppy rose sunflower tulip",
}

NAMES = sorted(" ".join(SUPERCLASSES.values()).split())  # in the order of the labels

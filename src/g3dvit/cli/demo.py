"""Show the whole job on data whose answer is known.

Simulates fresh runs of left-hand and right-hand blocks in a real brain (semi-synthetic), classifies
them with the shipped model, explains every volume, and says how well each map finds what was
planted. With --dataset development_fmri the same is done with a public data set (no known answer).
"""

from __future__ import annotations

import argparse

from g3dvit.cli.talk import progress_bar, say, seed

NAME = "demo"
HELP = "the whole job on simulated runs with a known answer, in some minutes"
EPILOG = """\
examples:
  g3dvit demo
  g3dvit demo -o somewhere --seed 3
  g3dvit demo --dataset development_fmri --data-dir ~/nilearn_data
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``g3dvit demo``."""
    parser.add_argument(
        "--output",
        "-o",
        metavar="DIR",
        help="new folder to write (default: g3dvit-demo, or g3dvit-demo-2 ... if that is there)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the simulated runs (default 0)")
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="make the shipped model anew by its recipe first (about half an hour, 2 GB of disk)",
    )
    parser.add_argument(
        "--dataset",
        choices=["semi-synthetic", "development_fmri"],
        default="semi-synthetic",
        help="simulated runs (default), or children against adults who watch a film: real data of "
        "OpenNeuro ds000228, which nilearn downloads (about 6 MB a person)",
    )
    parser.add_argument(
        "--subjects",
        type=int,
        default=24,
        metavar="N",
        help="people of development_fmri (default 24)",
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="where nilearn keeps its data (default: nilearn's own)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration and print what it found."""
    from g3dvit.demo import demo_folder, demonstrate_development, demonstrate_hands
    from g3dvit.demo.words import development_words, hands_words

    with demo_folder(arguments.output) as folder, progress_bar("steps") as progress:
        say(f"Writing to {folder}")
        if arguments.dataset == "semi-synthetic":
            lines = hands_words(
                demonstrate_hands(
                    folder,
                    seed=arguments.seed,
                    retrain=arguments.retrain,
                    say=say,
                    progress=progress,
                )
            )
        else:
            lines = development_words(
                demonstrate_development(
                    folder,
                    n_subjects=arguments.subjects,
                    data_dir=arguments.data_dir,
                    seed=arguments.seed,
                    say=say,
                    progress=progress,
                )
            )
    print("\n".join(lines))
    return 0

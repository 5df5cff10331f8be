"""All robustness campaigns: damaged files, hostile files and kills.

    python benchmarks/robustness.py [damage] [hostile] [kills] [--count 200] [--kills 10] [--seed 0]

Prints format x damages x silent, then each hostile case and each kind of kill. The exit code is 0
if nothing was used silently, no code was run, nothing was lost, and nothing ended "unexpected:".
About an hour on two cores.
"""

import argparse
import sys

import damage
import hostile
import kills

CAMPAIGNS = ("damage", "hostile", "kills")


def main() -> None:
    """Run the named campaigns, by default all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("campaigns", nargs="*", metavar="|".join(CAMPAIGNS))
    parser.add_argument("--count", type=int, default=200, help="damages of each format")
    parser.add_argument("--kills", type=int, default=10, help="kills of each kind of command")
    parser.add_argument("--only", nargs="+", help="formats, cases or commands to try")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    failed = 0
    for name in asked.campaigns or CAMPAIGNS:
        print(f"== {name}", flush=True)
        if name == "damage":
            failed += damage.campaigns(asked.count, asked.seed, asked.only)
        elif name == "hostile":
            failed += hostile.campaign(asked.only)
        elif name == "kills":
            failed += kills.campaign(asked.kills, asked.seed, asked.only)
        else:
            parser.error(f"unknown campaign {name!r}: one of {', '.join(CAMPAIGNS)}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

"""Run the official Cityscapes scorer, with a Python that has cityscapesscripts.

    python official_scorer.py PREDICTIONS LABELS RESULT.json

PREDICTIONS holds maps of label ids as they are submitted, anywhere below it; LABELS holds
`*_gtFine_labelIds.png`. The scorer finds the prediction of each label map by name.
"""

import os
import sys
from pathlib import Path

predictions, labels, result = sys.argv[1:]
os.environ["CITYSCAPES_RESULTS"] = predictions

from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official  # noqa: E402, N813

args = official.args
args.evalInstLevelScore = False  # needs instance maps
args.quiet = True
args.JSONOutput = True
args.exportFile = result
truth = sorted(map(str, Path(labels).rglob("*_gtFine_labelIds.png")))
official.evaluateImgLists([official.getPrediction(args, path) for path in truth], truth, args)

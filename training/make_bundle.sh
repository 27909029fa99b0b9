#!/bin/sh
# Makes the default bundle from phantoms and the real pictures in QC_SHARED_DATA; hours on two cores.
set -eu
cd "$(dirname "$0")/.."
data="${QC_SHARED_DATA:-../shared/data}"
qc_model=.venv/bin/qc-model
phantoms() { # name, count, set seed, share of OTHER
  [ -f "runs/$1/samples.json" ] || "$qc_model" phantom --out "runs/$1" --count "$2" --seed "$3" \
    --other-share "$4" --workers 2
}
phantoms phantoms-detector 2800 1 0.1
phantoms phantoms-spatialclip 8000 2 0.12
phantoms phantoms-calibration 900 3 0.1
[ -f runs/negatives/samples.json ] || "$qc_model" negatives --out runs/negatives \
  --dicom "$data/us_dicom" --fetus-framework "$data/fetus_framework" \
  --split set2_train --split set1_train --count 500
[ -f runs/detector/training.json ] || "$qc_model" train detector --out runs/detector --resume \
  --samples runs/phantoms-detector/samples.json \
  --fetus-framework "$data/fetus_framework" --split set1_train --epochs 9
[ -f runs/describer/training.json ] || "$qc_model" train describer --out runs/describer
[ -f runs/spatialclip/training.json ] || "$qc_model" train spatialclip --out runs/spatialclip \
  --resume --detector runs/detector --describer runs/describer \
  --samples runs/phantoms-spatialclip/samples.json --samples runs/negatives/samples.json \
  --fetus-framework "$data/fetus_framework" --split set2_train --held-out 0.15 --epochs 8
"$qc_model" calibrate --out model/bundles/default --version 0.1 --detector runs/detector \
  --describer runs/describer --spatialclip runs/spatialclip \
  --samples runs/phantoms-calibration/samples.json \
  --fetus-framework "$data/fetus_framework" --split set2_train --held-out 0.15 \
  --dicom "$data/us_dicom"

#!/bin/sh
# Makes the default bundle from phantoms, public starting weights and the real pictures in
# QC_SHARED_DATA: some hours on two cores. Every step resumes where it was stopped. Without the
# weights of YOLO11n (COCO) the detector begins from nothing, and says so; SonoNet's are needed.
set -eu
cd "$(dirname "$0")/.."
data="${QC_SHARED_DATA:-../shared/data}"
qc_model=.venv/bin/qc-model
# glibc gives big blocks back to the system and asks for them anew, batch after batch.
export MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 \
  MALLOC_TOP_PAD_=200000000
done_already() { [ -f "runs/$1/training.json" ]; }
# What decides a step stands in training/recipes.py. Sets $options; an error there ends the script.
recipe() { options="$(.venv/bin/python -m training.recipes "$1")"; }
# shellcheck disable=SC2086  # $options are words, here and below
phantoms() { # name
  recipe "$1"
  [ -f "runs/$1/samples.json" ] || "$qc_model" phantom --out "runs/$1" $options --workers 2
}
phantoms phantoms-detector
phantoms phantoms-spatialclip
phantoms phantoms-calibration
phantoms phantoms-folds
recipe negatives
[ -f runs/negatives/samples.json ] || "$qc_model" negatives --out runs/negatives \
  --dicom "$data/us_dicom" --fetus-framework "$data/fetus_framework" \
  --split set2_train --split set1_train $options

# What has seen simulations only: the folds and the shipped parts begin with it.
recipe describer
done_already describer || "$qc_model" train describer --out runs/describer $options
recipe detector-simulated
coco="$data/weights/yolo11n_coco.safetensors"
if [ -f "$coco" ]; then start="--start $coco"; else
  start="" && echo "no $coco: the detector begins from nothing" >&2
fi
done_already detector-simulated || "$qc_model" train detector --out runs/detector-simulated \
  --samples runs/phantoms-detector/samples.json --origin simulated $start $options --resume
recipe spatialclip-simulated
done_already spatialclip-simulated || "$qc_model" train spatialclip \
  --out runs/spatialclip-simulated --detector runs/detector-simulated --describer runs/describer \
  --samples runs/phantoms-spatialclip/samples.json --origin simulated \
  --sononet "$data/weights/sononet16.safetensors" $options --resume

# Real pictures without a quality label: they say which view it is, and where structures are.
unlabelled="--hc18 $data/hc18_heads --head-structures $data/head_structures \
  --fetal-planes $data/fetal_planes"
# Every real picture judged by models that never saw it; these also calibrate the bundle. The
# recipes are the command's defaults.
cross_validate() {
  "$qc_model" cross-validate --out runs/folds --fetus-framework "$data/fetus_framework" \
    --boxed runs/phantoms-detector/samples.json \
    --judged runs/phantoms-folds/samples.json --judged runs/negatives/samples.json \
    --origin simulated $unlabelled \
    --describer runs/describer --detector-start runs/detector-simulated \
    --spatialclip-start runs/spatialclip-simulated --jobs 2 "$@"
}
cross_validate

# The shipped parts; SpatialCLIP by the recipe of the folds.
recipe detector-real
done_already detector-real || "$qc_model" train detector --out runs/detector-real \
  --start runs/detector-simulated --samples runs/phantoms-detector/samples.json \
  --origin simulated \
  --fetus-framework "$data/fetus_framework" $unlabelled $options --resume
folds=""
for fold in 0 1 2 3 4; do folds="$folds --detector runs/folds/detector-$fold"; done
recipe spatialclip-real
done_already spatialclip-real || "$qc_model" train spatialclip --out runs/spatialclip-real $folds \
  --start runs/spatialclip-simulated --describer runs/describer \
  --samples runs/phantoms-folds/samples.json --samples runs/negatives/samples.json \
  --origin simulated --fetus-framework "$data/fetus_framework" $unlabelled $options \
  --like runs/folds/spatialclip-0 --cache runs/folds --resume
# Styles that were left out: for the model card.
cross_validate --looks
recipe calibrate
"$qc_model" calibrate --out model/bundles/default $options --detector runs/detector-real \
  --describer runs/describer --spatialclip runs/spatialclip-real \
  --samples runs/phantoms-calibration/samples.json --origin simulated \
  --fetus-framework "$data/fetus_framework" --dicom "$data/us_dicom" \
  --cross-validation runs/folds --force \
  --note "NT has learnt from one hospital, and no picture of another one has been judged here." \
  --note "Some of the weights began elsewhere: YOLO11n of COCO (Ultralytics, AGPL-3.0, SHA-256 \
b1a44b67), EfficientNet-Lite0 of ImageNet (Apache-2.0) and SonoNet-16 (Apache-2.0). NOTICE names \
where the public has them." \
  --note "Compression and the shape of the region tell the class in the Fetus Framework data set; \
training varies both. How other looks of a picture are judged: docs/benchmarks.md."

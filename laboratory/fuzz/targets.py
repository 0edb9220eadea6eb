"""Every reader of strangers' files.

A new layout of recordings is a target by what the tests write it with (tests/recording_factory.py); any
other reader gets a line here.
"""

from __future__ import annotations

import phone_recordings
import recording_factory
from bifusion.datasets.recordings.exr import read_exr_m
from bifusion.datasets.recordings.intrinsics import read_calibration
from bifusion.datasets.recordings.layouts.open3d import read_trajectory_json
from bifusion.datasets.rooms.config import RoomsConfig
from bifusion.labels.files import read_labels
from bifusion.labels.table import read_table
from bifusion.runs.run_data import read_data
from laboratory.fuzz import readers, run_samples, samples
from laboratory.fuzz.target import OWN, Target

LAYOUTS, SCANNET = "datasets.recordings", "datasets.scannet"
PLY, MESH, IMAGE = "datasets.ply", "datasets.mesh_files", "data"
VIEWS, WEIGHTS = "data.view_files", "models.towers.weight_files"
FOLDER, TORCH, REPORT = "data.scene_folder", "torch_files", "studies"
IMAGES = (".jpg", ".png", ".webp", ".tif", ".bmp", ".ppm")

TARGETS: tuple[Target, ...] = (
    Target("mesh .ply binary", samples.ply_binary, readers.mesh, (PLY, MESH), OWN),
    Target("mesh .ply ascii", samples.ply_ascii, readers.mesh, (PLY,), OWN),
    Target("mesh .ply lists", samples.ply_lists, readers.mesh, (PLY,), OWN),
    Target("mesh .obj", samples.obj, readers.mesh, (MESH,), OWN),
    Target("mesh .obj textured", samples.obj_textured, readers.mesh, (MESH,), OWN),
    Target("mesh .glb", samples.glb, readers.mesh, (MESH,)),
    Target("mesh .las", samples.laser(".las"), readers.mesh, (MESH,)),
    Target("mesh .laz", samples.laser(".laz"), readers.mesh, (MESH,)),
    Target("mesh .e57", samples.laser(".e57"), readers.mesh, (MESH,)),
    Target("mesh .pcd ascii", samples.pcd("ascii", "U"), readers.mesh, (MESH, PLY), OWN),
    Target("mesh .pcd binary", samples.pcd("binary"), readers.mesh, (MESH, PLY), OWN),
    Target("mesh .pcd compressed", samples.pcd("binary_compressed"), readers.mesh, (MESH,), OWN),
    Target("mesh .glb textured", samples.glb_textured, readers.mesh, (MESH,)),
    *(
        Target(f"recording {kind}", samples.recording(kind), readers.recording, (LAYOUTS,))
        for kind in (*recording_factory.WRITERS, *phone_recordings.WRITERS)
    ),
    *(
        Target(f"image {suffix}", samples.image(suffix), readers.color, (IMAGE,))
        for suffix in IMAGES
    ),
    Target("image of depth", samples.depth_image, readers.depth, (IMAGE,)),
    Target("image .exr", samples.exr, read_exr_m, (LAYOUTS,)),
    Target("pickle", samples.raw_pickle, readers.pickle, (TORCH,), OWN),
    Target("torch zip", samples.torch_zip, readers.torch_file, (TORCH,)),
    Target("torch legacy", samples.torch_legacy, readers.torch_file, (TORCH,), OWN),
    Target("torchscript", samples.torchscript, readers.torch_file, (TORCH,)),
    Target("json intrinsics", samples.intrinsics_json, read_calibration, (LAYOUTS,), OWN),
    Target("json trajectory", samples.trajectory_json, read_trajectory_json, (LAYOUTS,), OWN),
    Target("json record3d", samples.recording("record3d"), readers.opened_recording, (LAYOUTS,), OWN,
           "metadata.json"),
    Target("json labels", samples.labels_json, read_labels, ("labels.files",), OWN),
    Target("json scene", samples.scene_folder, readers.description, (FOLDER,), OWN, "scene.json"),
    Target("json config", run_samples.config, readers.config, ("config.run",), OWN),
    Target("json scan", run_samples.scan_description, readers.scan_description,
           ("inference.scan_files",), OWN, "*.json"),
    Target("json rooms", run_samples.rooms_config, RoomsConfig.read, ("datasets.rooms",), OWN),
    Target("scannet json", samples.scannet_scan, readers.scan, (SCANNET,), OWN, "*.json"),
    Target("scannet text", samples.scannet_scan, readers.scan, (SCANNET,), changed="*.t[xs][tv]"),
    Target("scannet images", samples.recording("scannet"), readers.posed_images, (SCANNET,)),
    Target("table of classes", samples.class_table, lambda path: read_table(path, "own"),
           ("labels.table",)),
    Target("npy", samples.npy, readers.array, (FOLDER,)),
    Target("scene", samples.scene_folder, readers.scene, (FOLDER, VIEWS)),
    Target("scene shown", samples.scene_folder, readers.shown_scene, ("viewer.scene",)),
    Target("checkpoint", run_samples.unsummed_checkpoint, readers.checkpoint, ("runs.checkpoint",)),
    Target("checkpoint sums", run_samples.checkpoint, readers.checkpoint, ("runs.checkpoint",),
           changed="sums.json"),
    Target("weights", run_samples.checkpoint, readers.weights, ("official",), changed="*.safetensors"),
    Target("tower", run_samples.tower, readers.tower, ("models.towers.clip_weights", WEIGHTS)),
    Target("bundle", run_samples.bundle, readers.bundle, ("diagnosis",)),
    Target("bundle replayed", run_samples.bundle, readers.replayed, ("diagnosis",), 1000),
    Target("run records", run_samples.records, readers.records, ("runs.run_folder", REPORT),
           changed="*.json*"),
    Target("run report", run_samples.records, readers.report, (REPORT,), 1000),
    Target("prediction", run_samples.prediction, readers.prediction, ("viewer.prediction",)),
    Target("json sums", samples.scene_folder, readers.sums, ("data.scene_sums",), OWN, "sums.json"),
    Target("json data", run_samples.data_of_run, read_data, ("runs.run_data",), OWN),
    Target("json architecture", samples.architecture, readers.architecture,
           ("models.towers.clip_architecture",), OWN),
    Target("scan with words", samples.labelled_scan, readers.scan_with_words, ("viewer.found",), 1000),
)  # fmt: skip

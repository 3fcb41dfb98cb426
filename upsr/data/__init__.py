"""From image files to training pairs: datasets in DATASET_REGISTRY, degradation, pair pool."""

from upsr.data.datasets import BicubicFolderDataset, FolderDataset, ImageDataset, PairedFolderDataset, RealESRGANDataset
from upsr.data.degradation import RealESRGANDegradation
from upsr.data.loader import batches_of, build_train_loader
from upsr.data.pair_pool import PairPool
from upsr.data.paired import PairedCropsDataset
from upsr.data.prefetch import DevicePrefetcher
from upsr.data.sampler import GlobalBatchSampler, SampleId
from upsr.data.taught import TaughtDataset, TaughtPairsDataset
from upsr.data.triples import TripleDataset

__all__ = [
    "BicubicFolderDataset",
    "DevicePrefetcher",
    "FolderDataset",
    "GlobalBatchSampler",
    "ImageDataset",
    "PairPool",
    "PairedCropsDataset",
    "PairedFolderDataset",
    "RealESRGANDataset",
    "RealESRGANDegradation",
    "SampleId",
    "TaughtDataset",
    "TaughtPairsDataset",
    "TripleDataset",
    "batches_of",
    "build_train_loader",
]

"""The graph face of the pack: schemas and sockets; the engines do the work."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .ask import AskImage, DescribeRegion, GroundPhrase
from .attention_map import AttentionMap
from .embed import CompareEmbeddings, EmbedImageText
from .evaluate_subject import EvaluateSubject
from .export_model import ExportModel
from .fine_tune_captions import FineTuneCaptions
from .generate import CFGSampler, LoadDiffusion, PriorGenerator
from .guidance import GuidanceGuider, GuidanceOptions
from .inversion import MergeEmbeddings, TextualInversionTrain
from .look import GroundedCaption, LoadKosmos
from .patch_tokens import PatchTokens
from .personalise import DreamBoothTrain, SubjectDataset
from .quantize import Quantize
from .regions import GroundingCrop, GroundingToMask
from .runs import LoadTrainingRun, ResumeTraining
from .save_captions import CaptionFolder, SaveCaptions
from .save_diffusion import SaveDiffusion
from .to_comfy_model import ToComfyModel
from .training_options import TrainingOptions
from .translate_caption import TranslateCaption


class KosmosDreamBooth(ComfyExtension):
    """Tells ComfyUI which nodes the pack has."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes, in the order of the story they tell."""
        return [
            LoadKosmos,
            GroundedCaption,
            AskImage,
            GroundPhrase,
            DescribeRegion,
            GroundingToMask,
            GroundingCrop,
            TranslateCaption,
            FineTuneCaptions,
            SaveCaptions,
            CaptionFolder,
            EmbedImageText,
            CompareEmbeddings,
            AttentionMap,
            PatchTokens,
            SubjectDataset,
            LoadDiffusion,
            PriorGenerator,
            TrainingOptions,
            DreamBoothTrain,
            LoadTrainingRun,
            ResumeTraining,
            EvaluateSubject,
            TextualInversionTrain,
            MergeEmbeddings,
            CFGSampler,
            GuidanceOptions,
            ToComfyModel,
            GuidanceGuider,
            SaveDiffusion,
            Quantize,
            ExportModel,
        ]

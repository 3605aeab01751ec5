"""The nodes of the pack: schemas and sockets around the functions of the other packages."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import host
from .ask_image import AskImage
from .attention_map import AttentionMap
from .caption_folder import CaptionFolder
from .cfg_sampler import CFGSampler
from .checked_inputs import checked
from .compare_embeddings import CompareEmbeddings
from .describe_region import DescribeRegion
from .dreambooth_train import DreamBoothTrain
from .embed_image_text import EmbedImageText
from .evaluate_subject import EvaluateSubject
from .export_model import ExportModel
from .fine_tune_captions import FineTuneCaptions
from .ground_phrase import GroundPhrase
from .grounded_caption import GroundedCaption
from .grounding_crop import GroundingCrop
from .grounding_from_boxes import GroundingFromBoxes
from .grounding_to_mask import GroundingToMask
from .guidance_guider import GuidanceGuider
from .guidance_options import GuidanceOptions
from .load_diffusion import LoadDiffusion
from .load_kosmos import LoadKosmos
from .load_training_run import LoadTrainingRun
from .merge_embeddings import MergeEmbeddings
from .patch_tokens import PatchTokens
from .prior_generator import PriorGenerator
from .quantize import Quantize
from .resume_training import ResumeTraining
from .save_captions import SaveCaptions
from .save_diffusion import SaveDiffusion
from .subject_dataset import SubjectDataset
from .textual_inversion_train import TextualInversionTrain
from .to_comfy_model import ToComfyModel
from .training_options import TrainingOptions
from .translate_caption import TranslateCaption


class KosmosDreamBooth(ComfyExtension):
    """The list of nodes that ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes, in the order of a workflow."""
        host.escape_unencodable()
        nodes: list[type[io.ComfyNode]] = [
            LoadKosmos,
            GroundedCaption,
            AskImage,
            GroundPhrase,
            DescribeRegion,
            GroundingFromBoxes,
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
        return [checked(node) for node in nodes]

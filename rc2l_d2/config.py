"""Every configuration key of this project, beside those that Detectron2 has."""

from .host import CfgNode


def add_rc2l_config(cfg: CfgNode) -> CfgNode:
    """Add our keys to a Detectron2 configuration, in place, and return it.

    Keys that MaskFormer also has keep its names and its meaning, so that its configuration files are familiar here.
    Only PIXEL_DECODER_NAME has other values.
    """
    # --- data ---------------------------------------------------------------------------------------------------
    # YAML files, one for each data set (datasets/README.md); their splits can be named in TRAIN, UNLABELED and TEST.
    cfg.DATASETS.DEFINITIONS = ()
    # Data sets of unlabelled images; existing labels are not used. DATASETS.TRAIN has the labelled ones.
    cfg.DATASETS.UNLABELED = ()
    # Lists of images, text files in any of the field's formats (datasets/README.md), relative to the current directory.
    # With a list, DATASETS.TRAIN (or UNLABELED) names the one data set that gives folders and classes.
    cfg.DATASETS.LABELED_LIST = ""
    cfg.DATASETS.UNLABELED_LIST = ""
    # Whether labelled images may be among the unlabelled ones, as some lists of the field have them.
    cfg.DATASETS.ALLOW_OVERLAP = False
    # Maximum fraction of unreadable images, or of labels that do not fit, before the run stops. Each is logged with its
    # path; the next image of the list is used instead.
    cfg.DATALOADER.MAX_BAD_SHARE = 0.01
    # Photometric distortion of labelled images (brightness, contrast, saturation, hue), as MaskFormer does.
    cfg.INPUT.COLOR_AUG_SSD = False

    # The strong view: brightness, contrast and saturation are scaled by up to 1 +- these, hue shifted by up to +- this
    # fraction of the circle ...
    cfg.INPUT.STRONG_JITTER = (0.5, 0.5, 0.5, 0.25)
    # ... and this fraction of strong views becomes grayscale. Lower both where colour tells classes apart.
    cfg.INPUT.STRONG_GRAYSCALE = 0.2

    # --- solver -------------------------------------------------------------------------------------------------
    # Unlabelled images per step, over all ranks (SOLVER.IMS_PER_BATCH counts the labelled ones).
    cfg.SOLVER.IMS_PER_BATCH_UNLABELED = 16
    # The SOLVER.IMS_PER_BATCH that SOLVER.BASE_LR is for: with another one the learning rate is scaled in proportion.
    # 0: no scaling.
    cfg.SOLVER.REFERENCE_IMS_PER_BATCH = 0
    # Images of a rank in a micro-batch; 0: all of a step. Smaller ones take less memory and more time (each forward
    # pass is repeated for its gradient). Losses and, except for batch normalisation, the gradient stay the same.
    cfg.SOLVER.IMS_PER_PASS = 0
    # Number of newest checkpoints to keep, beside that of the finished run; 0: all.
    cfg.SOLVER.CHECKPOINT_KEEP = 0
    # Number of steps of a run that may have non-finite losses. Such a step is skipped and logged with its images; one
    # more ends the run.
    cfg.SOLVER.MAX_BAD_STEPS = 0
    # Number type of mixed precision (SOLVER.AMP.ENABLED): "bfloat16", "float16", or "auto", bfloat16 on a GPU that has
    # it and float16 on others. A CPU uses bfloat16 if it has instructions for it, and float32 otherwise.
    cfg.SOLVER.AMP.DTYPE = "auto"
    # "ADAMW" or "SGD".
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    # Whether each rank stores the optimizer's state of its part of the parameters only (ZeRO stage 1). Saves memory
    # with several ranks; weights and checkpoints are the same.
    cfg.SOLVER.SHARD_OPTIMIZER = False
    # Learning rate of the backbone relative to BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Weight decay of embeddings: the queries of MATCHING hungarian.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # The one schedule here: linear warm-up, then polynomial decay.
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    # Exponent of the polynomial decay to zero: lr = BASE_LR * (1 - iter / MAX_ITER) ** power.
    cfg.SOLVER.POLY_LR_POWER = 0.9

    # --- evaluation ---------------------------------------------------------------------------------------------
    # (TEST.AUG, several sizes and mirroring, is Detectron2's.) Predict windows of the test image (resized to
    # INPUT.MIN_SIZE_TEST) with this height and width and this vertical and horizontal stride, all in pixels. The last
    # window of a row or column ends with the image; scores are averaged where windows overlap.
    cfg.TEST.SLIDING_WINDOW = CfgNode()
    cfg.TEST.SLIDING_WINDOW.ENABLED = False
    cfg.TEST.SLIDING_WINDOW.CROP_SIZE = [512, 512]
    cfg.TEST.SLIDING_WINDOW.STRIDE = [341, 341]

    # Whether a run ends with a training report, OUTPUT_DIR/report.html (tools/make_report.py writes it again).
    cfg.TEST.REPORT = True

    # --- backbones of timm (MODEL.BACKBONE.NAME: build_timm_backbone) ------------------------------------------------
    cfg.MODEL.TIMM = CfgNode()
    # Name of the model in timm: a convolutional one with maps of strides 4, 8, 16 and 32, or a plain ViT.
    cfg.MODEL.TIMM.NAME = "resnet50"
    # Pretrained weights for a new run: from timm's hub (needs a network), or from a file (.safetensors, .pth), which
    # wins over the hub; PACKAGE/FOLDER/FILE is a file of an installed package. A resumed run, evaluation and prediction
    # read neither.
    cfg.MODEL.TIMM.PRETRAINED = False
    cfg.MODEL.TIMM.CHECKPOINT = ""
    # Frozen from the input on: 0 nothing, 1 the stem, 2 also the first stage (of a ViT: the first block), and so on; -1
    # the whole backbone (of a ViT: without the pyramid), best on few labels of MSRC-21 (docs/experiments.md).
    cfg.MODEL.TIMM.FREEZE_STAGES = 0
    # Whether batch norms keep the running statistics of the pretrained weights.
    cfg.MODEL.TIMM.NORM_EVAL = False
    # Rate of stochastic depth.
    cfg.MODEL.TIMM.DROP_PATH = 0.0
    # Learning rate of a stage (of a ViT: a block) relative to the next one (BEiT's layer-wise decay); 1.0: all alike.
    cfg.MODEL.TIMM.LAYER_DECAY = 1.0
    # Activation checkpointing: less memory, and a second forward pass through the backbone.
    cfg.MODEL.TIMM.GRAD_CHECKPOINTING = False
    # Memory format of the images: True is faster for some convolutional backbones on a CPU (docs/performance.md).
    cfg.MODEL.TIMM.CHANNELS_LAST = False

    # --- the region predictor (MaskFormer's keys) -----------------------------------------------------------------
    cfg.MODEL.SEM_SEG_HEAD.NAME = "RegionHead"
    # Computes per-pixel features F from backbone maps: "FPN", MaskFormer's pyramid that ends in MASK_DIM channels, or
    # "ASPP", DeepLabV3+'s decoder of CONVS_DIM channels, which uses the finest and the coarsest map alone: with a
    # coarsest map of stride 32, try FPN (docs/experiments.md). PerPixelSegmentor has "ASPP" always.
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "ASPP"
    cfg.MODEL.SEM_SEG_HEAD.MASK_DIM = 256
    # ASPP (Detectron2's keys of DeepLabV3+): dilations of its convolutions, and dropout after it.
    cfg.MODEL.SEM_SEG_HEAD.ASPP_DILATIONS = [6, 12, 18]
    cfg.MODEL.SEM_SEG_HEAD.ASPP_DROPOUT = 0.1
    cfg.MODEL.MASK_FORMER = CfgNode()
    # Matching of queries with the classes of labels and pseudo labels: "class", one query for each class, without a
    # transformer, or "hungarian", MaskFormer's predictor and assignment.
    cfg.MODEL.MASK_FORMER.MATCHING = "class"
    # For "class" alone: added to the logit of class k for query k. 0.0 (the class depends on the region alone) is best
    # on frozen pretrained maps, 1.0 to 2.0 on trained maps, which overfit few labels (docs/experiments.md).
    cfg.MODEL.MASK_FORMER.CLASS_PRIOR = 2.0
    # For "class" alone: dropout of the region features that the class is predicted from.
    cfg.MODEL.MASK_FORMER.CLASS_DROPOUT = 0.5
    # For "class" alone: outside of training a classifier that was fitted to the regions of whole images predicts their
    # classes; factor of the similarities to mean regions in it. 0.0: no such classifier; 10.0 on frozen pretrained maps
    # (docs/results.md).
    cfg.MODEL.MASK_FORMER.CLASS_MEANS = 0.0
    # Images are padded to a multiple of this many pixels.
    cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY = 32
    # The other keys are for "hungarian" alone. Dropout in the transformer:
    cfg.MODEL.MASK_FORMER.DROPOUT = 0.1
    cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = 100
    # A loss on every decoder layer, not on the last alone.
    cfg.MODEL.MASK_FORMER.DEEP_SUPERVISION = True
    # Weight of the "no object" class in the classification loss.
    cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT = 0.1
    # Weights of Dice and focal mask loss, in the loss and in the matching cost.
    cfg.MODEL.MASK_FORMER.DICE_WEIGHT = 1.0
    cfg.MODEL.MASK_FORMER.MASK_WEIGHT = 20.0
    # Transformer decoder: attention heads, feed-forward width, layers, pre- or post-norm, model width.
    cfg.MODEL.MASK_FORMER.NHEADS = 8
    cfg.MODEL.MASK_FORMER.DIM_FEEDFORWARD = 2048
    cfg.MODEL.MASK_FORMER.DEC_LAYERS = 6
    cfg.MODEL.MASK_FORMER.PRE_NORM = False
    cfg.MODEL.MASK_FORMER.HIDDEN_DIM = 256
    # Backbone map that the queries attend to.
    cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE = "res5"

    # --- semi-supervised training: RC2L and its baselines ---------------------------------------------------------
    cfg.MODEL.SEMI_SUPERVISED = CfgNode()
    # Iterations on labelled images alone, before the first pseudo label: until labels alone hardly gain any more.
    # Pseudo labels of a weaker model leave rare classes out, and teach that (docs/results.md, from scratch).
    cfg.MODEL.SEMI_SUPERVISED.BURN_IN_ITERS = 2000
    # Iterations after burn-in over which the weight of the unlabelled losses rises linearly from 0 to 1.
    cfg.MODEL.SEMI_SUPERVISED.RAMP_UP_ITERS = 2000
    # Largest decay of the teacher's exponential moving average (EMA).
    cfg.MODEL.SEMI_SUPERVISED.EMA_DECAY = 0.999
    # How strong views are mixed within a batch: "cutmix", "classmix", "none", or "labeled": CutMix for every second
    # image, and regions of labelled images pasted into the others.
    cfg.MODEL.SEMI_SUPERVISED.MIX = "cutmix"
    # Strong views of each unlabelled image (UniMatch: 2).
    cfg.MODEL.SEMI_SUPERVISED.STRONG_VIEWS = 1
    # Adds the weak view without this fraction of the channels of each backbone map (UniMatch's feature perturbation:
    # 0.5). 0.0: no such view.
    cfg.MODEL.SEMI_SUPERVISED.FEATURE_DROPOUT = 0.0
    # Smallest pseudo region of RC2L, in pixels of the mask grid (stride 4); pixel-level methods do not read it.
    cfg.MODEL.SEMI_SUPERVISED.MIN_REGION_AREA = 4
    # Log precision and recall of the pseudo labels where unlabelled images have labels on disk. Training does not use
    # these labels.
    cfg.MODEL.SEMI_SUPERVISED.MEASURE_PSEUDO_LABELS = False

    # --- RC2L -----------------------------------------------------------------------------------------------------
    cfg.MODEL.RC2L = CfgNode()
    # Lambda, the weight of the four unlabelled losses together, and the weight of each; 0.0 switches a loss off.
    cfg.MODEL.RC2L.LOSS_WEIGHT = 1.0
    cfg.MODEL.RC2L.RMC_WEIGHT = 0.2
    cfg.MODEL.RC2L.RFC_WEIGHT = 0.1
    cfg.MODEL.RC2L.RCC_WEIGHT = 0.2
    cfg.MODEL.RC2L.SMC_WEIGHT = 1.0
    # Softmax temperatures of Dice similarities (RMC) and of cosine similarities (RFC).
    cfg.MODEL.RC2L.MASK_TEMPERATURE = 0.1
    cfg.MODEL.RC2L.FEATURE_TEMPERATURE = 0.1
    # Unit of the selection of pseudo labels: "region", a whole region by its mean confidence, or "pixel", each pixel by
    # its own.
    cfg.MODEL.RC2L.SELECTION = "region"
    # Selected is what exceeds this probability (0.0, no floor: rare classes are always unsure) ...
    cfg.MODEL.RC2L.CONFIDENCE_THRESHOLD = 0.0
    # ... and this fraction of the running mean confidence of its class (0.0: one fixed threshold for all classes).
    cfg.MODEL.RC2L.CLASS_THRESHOLD_RATIO = 0.9

    # --- pixel-level baselines (MODEL.META_ARCHITECTURE PixelConsistency and PixelContrast) -------------------------
    cfg.MODEL.PIXEL = CfgNode()
    # As in MODEL.RC2L; the defaults are FixMatch's scheme, which selects each pixel by itself.
    cfg.MODEL.PIXEL.SELECTION = "pixel"
    cfg.MODEL.PIXEL.CONFIDENCE_THRESHOLD = 0.5
    cfg.MODEL.PIXEL.CLASS_THRESHOLD_RATIO = 0.95
    # Weights of the cross-entropy against pseudo labels and of the contrastive loss (PixelContrast alone); 0.0 switches
    # a loss off.
    cfg.MODEL.PIXEL.CONSISTENCY_WEIGHT = 1.0
    cfg.MODEL.PIXEL.CONTRAST_WEIGHT = 0.1
    # Softmax temperature of the cosine similarities of pixel features.
    cfg.MODEL.PIXEL.CONTRAST_TEMPERATURE = 0.1
    # Mask pixels of each image that are contrasted, sampled at each step; 0 for all. Cost grows with their square.
    cfg.MODEL.PIXEL.CONTRAST_SAMPLES = 256

    # --- UniMatch (MODEL.META_ARCHITECTURE UniMatch, with STRONG_VIEWS 2 and FEATURE_DROPOUT 0.5) -------------------
    cfg.MODEL.UNIMATCH = CfgNode()
    # A pseudo label is used where its probability exceeds this.
    cfg.MODEL.UNIMATCH.CONFIDENCE_THRESHOLD = 0.95

    for name in ("BURN_IN_ITERS", "RAMP_UP_ITERS", "EMA_DECAY", "MIX", "MIN_REGION_AREA", "MEASURE_PSEUDO_LABELS"):
        cfg.register_renamed_key(f"MODEL.RC2L.{name}", f"MODEL.SEMI_SUPERVISED.{name}")
    cfg.register_renamed_key("MODEL.RC2L.MATCHING", "MODEL.MASK_FORMER.MATCHING")
    cfg.register_renamed_key("MODEL.MASK_FORMER.CLASS_MEMORY", "MODEL.MASK_FORMER.CLASS_MEANS")
    return cfg

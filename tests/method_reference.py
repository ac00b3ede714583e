"""The formulas of the method a second time, in float64 numpy with plain loops.

Written from the formulas alone, to be compared with ``rc2l_d2``; clear before fast. Arrays use the shapes of
``rc2l_d2.regions.types``: class logits (B, N, K+1), mask logits (B, N, h, w), features (B, C, h, w), slots (B, K).
``pseudo`` and ``teacher`` are dictionaries of the fields of these types.
"""

import itertools
import math

import numpy as np
from scipy.special import expit, logsumexp, softmax

LOG_FLOOR = 1e-6


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)


def class_probabilities(class_logits: np.ndarray) -> np.ndarray:
    """P_i(c) with "no object" as the last class, (B, N, K+1)."""
    return softmax(class_logits.astype(np.float64), axis=-1)


def mask_probabilities(mask_logits: np.ndarray) -> np.ndarray:
    return expit(mask_logits.astype(np.float64))


# --- semantic maps and pseudo regions ---------------------------------------------------------------------------------


def semantic_scores(class_logits: np.ndarray, mask_logits: np.ndarray) -> np.ndarray:
    classes, masks = class_probabilities(class_logits), mask_probabilities(mask_logits)
    images, queries, height, width = masks.shape
    scores = np.zeros((images, classes.shape[2] - 1, height, width))
    for b, c, y, x in np.ndindex(*scores.shape):
        scores[b, c, y, x] = sum(classes[b, i, c] * masks[b, i, y, x] for i in range(queries))
    return scores


def semantic_probabilities(class_logits: np.ndarray, mask_logits: np.ndarray) -> np.ndarray:
    scores = semantic_scores(class_logits, mask_logits)
    result = np.zeros_like(scores)
    for b, c, y, x in np.ndindex(*scores.shape):
        result[b, c, y, x] = scores[b, c, y, x] / sum(scores[b, :, y, x])
    return result


def label_and_confidence(probabilities: np.ndarray, b: int, y: int, x: int) -> tuple[int, float]:
    label = int(np.argmax(probabilities[b, :, y, x]))
    return label, float(probabilities[b, label, y, x])


def class_confidence_sums(teacher: dict) -> tuple[np.ndarray, np.ndarray]:
    probabilities, inside = teacher["semantic_map"], teacher["inside"]
    sums, counts = np.zeros(probabilities.shape[1]), np.zeros(probabilities.shape[1])
    for b, y, x in np.argwhere(inside):
        label, confidence = label_and_confidence(probabilities, b, y, x)
        sums[label] += confidence
        counts[label] += 1
    return sums, counts


def masked_average_pool(features: np.ndarray, masks: np.ndarray) -> np.ndarray:
    result = np.zeros((*masks.shape[:2], features.shape[1]))
    for b, c in np.argwhere(masks.any(axis=(2, 3))):
        result[b, c] = [np.average(channel, weights=masks[b, c]) for channel in features[b]]
    return result


def pseudo_regions(teacher: dict, thresholds, min_area: int, unit: str) -> dict[str, np.ndarray]:
    probabilities, inside = teacher["semantic_map"], teacher["inside"]
    masks, weights = np.zeros(probabilities.shape), np.zeros(probabilities.shape[:2])
    valid, present = np.zeros(inside.shape, dtype=bool), np.zeros(probabilities.shape[:2], dtype=bool)
    for b, c in np.ndindex(*present.shape):
        confidence = {}
        for y, x in np.argwhere(inside[b]):
            label, v = label_and_confidence(probabilities, b, y, x)
            if label == c:
                confidence[y, x] = v
        if not confidence:
            continue
        mean = sum(confidence.values()) / len(confidence)
        confident = [place for place, v in confidence.items() if (v if unit == "pixel" else mean) > thresholds[c]]
        if len(confident) >= min_area:
            present[b, c], weights[b, c] = True, mean
            for y, x in confident:
                masks[b, c, y, x] = valid[b, y, x] = 1
    pooled = masked_average_pool(teacher["features"], masks)
    return {"masks": masks, "present": present, "valid": valid, "features": pooled, "weights": weights}


def classmix_mask(teacher: dict, uniform) -> np.ndarray:
    """Only pixels inside the partner are ever pasted."""
    probabilities, inside = teacher["semantic_map"], teacher["inside"]
    result = np.zeros(inside.shape, dtype=bool)
    for b in range(len(inside)):
        partner = (b - 1) % len(inside)
        labels = np.where(inside[partner], probabilities[partner].argmax(axis=0), -1)
        occurring = sorted(set(labels[inside[partner]]), key=lambda c: uniform[b, c])
        result[b] = np.isin(labels, occurring[: math.ceil(len(occurring) / 2)])
    return result


def mix(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """For arrays (B, ..., h, w) whose h and w are a whole multiple of the mask's."""
    result = array.copy()
    stride = array.shape[-1] // mask.shape[-1]
    for b, y, x in np.ndindex(array.shape[0], *array.shape[-2:]):
        if mask[b, y // stride, x // stride]:
            result[b, ..., y, x] = array[(b - 1) % array.shape[0], ..., y, x]
    return result


# --- matching and losses ----------------------------------------------------------------------------------------------


def dice(p: np.ndarray, target: np.ndarray, valid: np.ndarray) -> float:
    """Soft Dice of probabilities and a mask (h, w), over the valid pixels."""
    p, target = p[valid], target[valid]
    return (2 * np.sum(p * target) + 1) / (np.sum(p) + np.sum(target) + 1)


def focal(p: np.ndarray, target: np.ndarray, valid: np.ndarray) -> float:
    """Focal loss of probabilities and a mask (h, w), mean over the valid pixels."""
    values = np.where(target, -0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p))
    return values[valid].mean() if valid.any() else 0.0


def soft_dice(mask_logits: np.ndarray, masks: np.ndarray, valid: np.ndarray) -> np.ndarray:
    student = mask_probabilities(mask_logits)
    result = np.zeros((*student.shape[:2], masks.shape[1]))
    for b, i, c in np.ndindex(*result.shape):
        result[b, i, c] = dice(student[b, i], masks[b, c], valid[b])
    return result


def matched_pairs(pseudo, queries, pairs):
    """(image, query, slot, weight) of each pair in ``pairs`` (B, N, K); None: query k with slot k if it is present."""
    if pairs is None:
        pairs = np.eye(queries, pseudo["present"].shape[1]) * pseudo["present"][:, None]
    return [(b, i, c, pseudo["weights"][b, c]) for b, i, c in np.argwhere(pairs)]


def region_mask_contrastive(class_logits, mask_logits, pseudo, temperature=0.1, pairs=None) -> float:
    d = soft_dice(mask_logits, pseudo["masks"], pseudo["valid"]) / temperature
    total, total_weight = 0.0, 0.0
    for b, i, c, weight in matched_pairs(pseudo, d.shape[1], pairs):
        slots = np.flatnonzero(pseudo["present"][b])
        to_region = logsumexp(d[b, i, slots]) - d[b, i, c]
        to_query = logsumexp(d[b, :, c]) - d[b, i, c]
        total += weight * (to_region + to_query) / 2
        total_weight += weight
    return total / total_weight if total_weight > 0 else 0.0


def region_feature_contrastive(
    class_logits, mask_logits, features, pseudo, temperature=0.1, keys=None, keys_present=None
) -> float:
    keys = pseudo["features"] if keys is None else keys
    keys_present = pseudo["present"] if keys_present is None else keys_present
    semantic_map = semantic_probabilities(class_logits, mask_logits)
    anchors = masked_average_pool(features, np.where(pseudo["valid"][:, None], semantic_map, 0.0))
    losses = []
    for b, c in np.argwhere(pseudo["present"]):
        similarity = {(m, k): cosine(anchors[b, c], keys[m, k]) / temperature for m, k in np.argwhere(keys_present)}
        normaliser = logsumexp([*similarity.values()])
        positives = [normaliser - value for (_, k), value in similarity.items() if k == c]
        losses.append(sum(positives) / len(positives))
    return sum(losses) / len(losses) if losses else 0.0


def region_class_consistency(class_logits, mask_logits, pseudo, pairs=None) -> float:
    classes, total, total_weight = class_probabilities(class_logits), 0.0, 0.0
    for b, i, c, weight in matched_pairs(pseudo, classes.shape[1], pairs):
        total -= weight * math.log(classes[b, i, c] + LOG_FLOOR)
        total_weight += weight
    return total / total_weight if total_weight > 0 else 0.0


def pixel_consistency(class_logits, mask_logits, pseudo) -> float:
    semantic_map = semantic_probabilities(class_logits, mask_logits)
    total = 0.0
    for b, y, x in np.argwhere(pseudo["valid"]):
        (label,) = np.flatnonzero(pseudo["masks"][b, :, y, x] == 1)
        total -= math.log(semantic_map[b, label, y, x] + LOG_FLOOR)
    return total / pseudo["valid"].size


def semantic_mask_consistency(class_logits, mask_logits, pseudo) -> float:
    semantic_map = semantic_probabilities(class_logits, mask_logits)
    total, total_weight = 0.0, 0.0
    for b, c in np.argwhere(pseudo["present"]):
        total += pseudo["weights"][b, c] * (1 - dice(semantic_map[b, c], pseudo["masks"][b, c], pseudo["valid"][b]))
        total_weight += pseudo["weights"][b, c]
    if total_weight == 0:
        return 0.0
    return pixel_consistency(class_logits, mask_logits, pseudo) + 0.5 * total / total_weight


def pixel_contrastive(features: np.ndarray, teacher: dict, temperature=0.1) -> float:
    """Over all pixels inside the images."""
    semantic_map, keys = teacher["semantic_map"], teacher["features"]
    pixels = [tuple(place) for place in np.argwhere(teacher["inside"])]
    losses = []
    for b, y, x in pixels:
        of_positive = cosine(features[b, :, y, x], keys[b, :, y, x]) / temperature
        weighted = math.exp(of_positive)
        for m, v, u in pixels:
            if (m, v, u) != (b, y, x):
                same_class = sum(p * q for p, q in zip(semantic_map[b, :, y, x], semantic_map[m, :, v, u], strict=True))
                similarity = cosine(features[b, :, y, x], keys[m, :, v, u]) / temperature
                weighted += (1 - same_class) * math.exp(similarity)
        losses.append(math.log(weighted) - of_positive)
    return sum(losses) / len(losses) if losses else 0.0


# --- Hungarian matching -----------------------------------------------------------------------------------------------


def matching_cost(class_logits, mask_logits, masks, valid, mask_weight, dice_weight) -> np.ndarray:
    """-P_i(c) plus weighted focal and Dice loss of every query and slot."""
    classes, student = class_probabilities(class_logits), mask_probabilities(mask_logits)
    cost = np.zeros((*student.shape[:2], masks.shape[1]))
    for b, i, c in np.ndindex(*cost.shape):
        pair = student[b, i], masks[b, c], valid[b]
        cost[b, i, c] = mask_weight * focal(*pair) + dice_weight * (1 - dice(*pair)) - classes[b, i, c]
    return cost


def assignment(cost: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The cheapest one-to-one assignment by trying all of them."""
    result = np.zeros_like(cost)
    for b in range(len(cost)):
        slots = np.flatnonzero(present[b])
        size = min(len(slots), cost.shape[1])
        pairings = [
            list(zip(queries, columns, strict=True))
            for columns in itertools.combinations(slots, size)
            for queries in itertools.permutations(range(cost.shape[1]), size)
        ]
        for i, c in min(pairings, key=lambda pairs: sum(cost[b, i, c] for i, c in pairs)):
            result[b, i, c] = 1
    return result

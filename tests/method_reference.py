"""The formulas of the method a second time, in float64 numpy with one loop for every index.

Written from the formulas alone, to be compared with ``rc2l_d2.regions``; clear before fast. Arrays use the shapes of
``rc2l_d2.regions.types``: class logits (B, N, K+1), mask logits (B, N, h, w), features (B, C, h, w), slots (B, K).
"""

from __future__ import annotations

import itertools
import math

import numpy as np

LOG_FLOOR = 1e-6


def sigmoid(x: float) -> float:
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    return math.exp(x) / (1.0 + math.exp(x))


def softmax(values: list[float]) -> list[float]:
    largest = max(values)
    exponentials = [math.exp(value - largest) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def log_sum_exp(values: list[float]) -> float:
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values))


def class_probabilities(class_logits: np.ndarray) -> np.ndarray:
    """P_i(c) with "no object" as the last class, (B, N, K+1)."""
    result = np.zeros(class_logits.shape, dtype=np.float64)
    for b in range(class_logits.shape[0]):
        for i in range(class_logits.shape[1]):
            result[b, i] = softmax([float(value) for value in class_logits[b, i]])
    return result


def mask_probabilities(mask_logits: np.ndarray) -> np.ndarray:
    result = np.zeros(mask_logits.shape, dtype=np.float64)
    for index in np.ndindex(*mask_logits.shape):
        result[index] = sigmoid(float(mask_logits[index]))
    return result


def semantic_scores(class_logits: np.ndarray, mask_logits: np.ndarray) -> np.ndarray:
    classes, masks = class_probabilities(class_logits), mask_probabilities(mask_logits)
    images, queries, height, width = masks.shape
    slots = classes.shape[2] - 1
    scores = np.zeros((images, slots, height, width))
    for b in range(images):
        for c in range(slots):
            for y in range(height):
                for x in range(width):
                    scores[b, c, y, x] = sum(classes[b, i, c] * masks[b, i, y, x] for i in range(queries))
    return scores


def semantic_probabilities(class_logits: np.ndarray, mask_logits: np.ndarray) -> np.ndarray:
    scores = semantic_scores(class_logits, mask_logits)
    result = np.zeros_like(scores)
    images, slots, height, width = scores.shape
    for b in range(images):
        for y in range(height):
            for x in range(width):
                total = sum(scores[b, c, y, x] for c in range(slots))
                for c in range(slots):
                    result[b, c, y, x] = scores[b, c, y, x] / total
    return result


def label_and_confidence(probabilities: np.ndarray, b: int, y: int, x: int) -> tuple[int, float]:
    label = 0
    for c in range(probabilities.shape[1]):
        if probabilities[b, c, y, x] > probabilities[b, label, y, x]:
            label = c
    return label, float(probabilities[b, label, y, x])


def class_confidence_sums(probabilities: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images, slots, height, width = probabilities.shape
    sums, counts = np.zeros(slots), np.zeros(slots)
    for b in range(images):
        for y in range(height):
            for x in range(width):
                if inside[b, y, x]:
                    label, confidence = label_and_confidence(probabilities, b, y, x)
                    sums[label] += confidence
                    counts[label] += 1
    return sums, counts


def update_class_confidence(confidence, sums, counts, momentum: float) -> np.ndarray:
    result = []
    for old, total, number in zip(confidence, sums, counts, strict=True):
        result.append(momentum * old + (1 - momentum) * total / number if number > 0 else old)
    return np.array(result)


def class_thresholds(confidence, floor: float, ratio: float) -> np.ndarray:
    return np.array([max(floor, ratio * value) for value in confidence])


def masked_average_pool(features: np.ndarray, masks: np.ndarray) -> np.ndarray:
    images, channels, height, width = features.shape
    slots = masks.shape[1]
    result = np.zeros((images, slots, channels))
    for b in range(images):
        for c in range(slots):
            total, area = np.zeros(channels), 0.0
            for y in range(height):
                for x in range(width):
                    total += masks[b, c, y, x] * features[b, :, y, x]
                    area += masks[b, c, y, x]
            if area > 0:
                result[b, c] = total / area
    return result


def pseudo_regions(probabilities, features, inside, thresholds, min_area, selection) -> dict[str, np.ndarray]:
    images, slots, height, width = probabilities.shape
    masks = np.zeros(probabilities.shape)
    present = np.zeros((images, slots), dtype=bool)
    valid = np.zeros((images, height, width), dtype=bool)
    weights = np.zeros((images, slots))
    for b in range(images):
        for c in range(slots):
            confidences, places = [], []
            for y in range(height):
                for x in range(width):
                    label, confidence = label_and_confidence(probabilities, b, y, x)
                    if label == c and inside[b, y, x]:
                        confidences.append(confidence)
                        places.append((y, x))
            if selection == "pixel":
                confident = [place for place, v in zip(places, confidences, strict=True) if v > thresholds[c]]
            else:
                confident = places if places and sum(confidences) / len(confidences) > thresholds[c] else []
            if len(confident) >= min_area:
                present[b, c] = True
                weights[b, c] = sum(confidences) / len(confidences)
                for y, x in confident:
                    masks[b, c, y, x] = 1
                    valid[b, y, x] = True
    pooled = masked_average_pool(features, masks)
    return {"masks": masks, "present": present, "valid": valid, "features": pooled, "weights": weights}


def match_by_class(class_logits: np.ndarray, present: np.ndarray) -> np.ndarray:
    classes = class_probabilities(class_logits)
    images, queries, slots = classes.shape[0], classes.shape[1], classes.shape[2] - 1
    result = np.zeros((images, queries, slots))
    for b in range(images):
        for i in range(queries):
            for c in range(slots):
                if present[b, c]:
                    result[b, i, c] = classes[b, i, c]
    return result


def soft_dice(mask_logits: np.ndarray, masks: np.ndarray, valid: np.ndarray) -> np.ndarray:
    student = mask_probabilities(mask_logits)
    images, queries, height, width = student.shape
    slots = masks.shape[1]
    result = np.zeros((images, queries, slots))
    for b in range(images):
        for i in range(queries):
            for c in range(slots):
                both, own, other = 0.0, 0.0, 0.0
                for y in range(height):
                    for x in range(width):
                        if valid[b, y, x]:
                            both += student[b, i, y, x] * masks[b, c, y, x]
                            own += student[b, i, y, x]
                            other += masks[b, c, y, x]
                result[b, i, c] = (2 * both + 1) / (own + other + 1)
    return result


def region_mask_contrastive(class_logits, mask_logits, pseudo, temperature=0.1) -> float:
    classes = class_probabilities(class_logits)
    dice = soft_dice(mask_logits, pseudo["masks"], pseudo["valid"])
    images, queries, _ = dice.shape
    to_region, to_region_weight, to_query, to_query_weight = 0.0, 0.0, 0.0, 0.0
    for b in range(images):
        slots = [c for c in range(dice.shape[2]) if pseudo["present"][b, c]]
        for c in slots:
            weight = pseudo["weights"][b, c]
            for i in range(queries):
                among_regions = log_sum_exp([dice[b, i, other] / temperature for other in slots])
                to_region += classes[b, i, c] * weight * (among_regions - dice[b, i, c] / temperature)
                to_region_weight += classes[b, i, c] * weight
            matched = log_sum_exp([dice[b, i, c] / temperature + math.log(classes[b, i, c]) for i in range(queries)])
            among_queries = log_sum_exp([dice[b, i, c] / temperature for i in range(queries)])
            to_query += weight * (among_queries - matched)
            to_query_weight += weight
    if to_query_weight == 0:
        return 0.0
    return 0.5 * to_region / to_region_weight + 0.5 * to_query / to_query_weight


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    product = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


def region_feature_contrastive(
    class_logits, mask_logits, features, pseudo, temperature=0.1, keys=None, keys_present=None
) -> float:
    keys = pseudo["features"] if keys is None else keys
    keys_present = pseudo["present"] if keys_present is None else keys_present
    shares = semantic_probabilities(class_logits, mask_logits)
    for b in range(shares.shape[0]):
        for c in range(shares.shape[1]):
            shares[b, c] = np.where(pseudo["valid"][b], shares[b, c], 0.0)
    anchors = masked_average_pool(features, shares)
    losses = []
    for b in range(anchors.shape[0]):
        for c in range(anchors.shape[1]):
            if not pseudo["present"][b, c]:
                continue
            logits, same = [], []
            for m in range(keys.shape[0]):
                for k in range(keys.shape[1]):
                    if keys_present[m, k]:
                        logits.append(cosine(anchors[b, c], keys[m, k]) / temperature)
                        same.append(k == c)
            normaliser = log_sum_exp(logits)
            positives = [normaliser - logit for logit, positive in zip(logits, same, strict=True) if positive]
            losses.append(sum(positives) / len(positives))
    return sum(losses) / len(losses) if losses else 0.0


def region_class_consistency(class_logits, mask_logits, pseudo, temperature=0.1) -> float:
    classes = class_probabilities(class_logits)
    dice = soft_dice(mask_logits, pseudo["masks"], pseudo["valid"])
    images, queries, _ = dice.shape
    total, total_weight = 0.0, 0.0
    for b in range(images):
        slots = [c for c in range(dice.shape[2]) if pseudo["present"][b, c]]
        for position, c in enumerate(slots):
            owns = [softmax([dice[b, i, other] / temperature for other in slots])[position] for i in range(queries)]
            predicted = sum(owns[i] * classes[b, i, c] for i in range(queries)) / sum(owns)
            total += pseudo["weights"][b, c] * -math.log(predicted + LOG_FLOOR)
            total_weight += pseudo["weights"][b, c]
    return total / total_weight if total_weight > 0 else 0.0


def semantic_mask_consistency(class_logits, mask_logits, pseudo) -> float:
    shares = semantic_probabilities(class_logits, mask_logits)
    images, slots, height, width = shares.shape
    cross_entropy = 0.0
    for b in range(images):
        for y in range(height):
            for x in range(width):
                if pseudo["valid"][b, y, x]:
                    (label,) = [c for c in range(slots) if pseudo["masks"][b, c, y, x] == 1]
                    cross_entropy -= math.log(shares[b, label, y, x] + LOG_FLOOR)
    dice_loss, total_weight = 0.0, 0.0
    for b in range(images):
        for c in range(slots):
            if not pseudo["present"][b, c]:
                continue
            both, own, other = 0.0, 0.0, 0.0
            for y in range(height):
                for x in range(width):
                    if pseudo["valid"][b, y, x]:
                        both += shares[b, c, y, x] * pseudo["masks"][b, c, y, x]
                        own += shares[b, c, y, x]
                        other += pseudo["masks"][b, c, y, x]
            dice_loss += pseudo["weights"][b, c] * (1 - (2 * both + 1) / (own + other + 1))
            total_weight += pseudo["weights"][b, c]
    if total_weight == 0:
        return 0.0
    return cross_entropy / (images * height * width) + 0.5 * dice_loss / total_weight


def classmix_mask(probabilities, inside, uniform) -> np.ndarray:
    """Only the partner's inside positions are ever pasted."""
    images, slots, height, width = probabilities.shape
    result = np.zeros((images, height, width), dtype=bool)
    for b in range(images):
        partner = (b - 1) % images
        labels = {}
        for y in range(height):
            for x in range(width):
                if inside[partner, y, x]:
                    labels[y, x] = label_and_confidence(probabilities, partner, y, x)[0]
        occurring = sorted(set(labels.values()), key=lambda c: uniform[b, c])
        pasted = occurring[: math.ceil(len(occurring) / 2)]
        for (y, x), label in labels.items():
            result[b, y, x] = label in pasted
    return result


def mix(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """For arrays (B, ..., h, w) whose h and w are a whole multiple of the mask's."""
    result = array.copy()
    stride = array.shape[-1] // mask.shape[-1]
    for b in range(array.shape[0]):
        for y in range(array.shape[-2]):
            for x in range(array.shape[-1]):
                if mask[b, y // stride, x // stride]:
                    result[b, ..., y, x] = array[(b - 1) % array.shape[0], ..., y, x]
    return result


def pixel_contrastive(features, probabilities, teacher_features, inside, temperature=0.1) -> float:
    """Over all positions inside."""
    images, _, height, width = features.shape
    positions = [(b, y, x) for b in range(images) for y in range(height) for x in range(width) if inside[b, y, x]]
    losses = []
    for b, y, x in positions:
        of_positive = cosine(features[b, :, y, x], teacher_features[b, :, y, x]) / temperature
        weighted = math.exp(of_positive)
        for other in positions:
            if other != (b, y, x):
                m, v, u = other
                same_class = sum(
                    p * q for p, q in zip(probabilities[b, :, y, x], probabilities[m, :, v, u], strict=True)
                )
                similarity = cosine(features[b, :, y, x], teacher_features[m, :, v, u]) / temperature
                weighted += (1 - same_class) * math.exp(similarity)
        losses.append(math.log(weighted) - of_positive)
    return sum(losses) / len(losses) if losses else 0.0


def pixel_consistency(class_logits, mask_logits, pseudo) -> float:
    shares = semantic_probabilities(class_logits, mask_logits)
    images, slots, height, width = shares.shape
    total = 0.0
    for b in range(images):
        for y in range(height):
            for x in range(width):
                for c in range(slots):
                    if pseudo["valid"][b, y, x] and pseudo["masks"][b, c, y, x] == 1:
                        total -= math.log(shares[b, c, y, x] + LOG_FLOOR)
    return total / (images * height * width)


def matching_cost(class_logits, mask_logits, pseudo, mask_weight, dice_weight) -> np.ndarray:
    """-P + weighted focal and Dice loss of every query and slot, sums over the valid positions."""
    classes, masks = class_probabilities(class_logits), mask_probabilities(mask_logits)
    images, queries, height, width = masks.shape
    cost = np.zeros((images, queries, classes.shape[2] - 1))
    for b, i, c in np.ndindex(*cost.shape):
        focal, both, own, other, number = 0.0, 0.0, 0.0, 0.0, 0
        for y in range(height):
            for x in range(width):
                if pseudo["valid"][b, y, x]:
                    p, target = masks[b, i, y, x], pseudo["masks"][b, c, y, x]
                    focal += -0.25 * (1 - p) ** 2 * math.log(p) if target else -0.75 * p**2 * math.log(1 - p)
                    both, own, other, number = both + p * target, own + p, other + target, number + 1
        dice = 1 - (2 * both + 1) / (own + other + 1)
        cost[b, i, c] = mask_weight * focal / max(number, 1) + dice_weight * dice - classes[b, i, c]
    return cost


def assignment(cost: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The cheapest one-to-one assignment by trying all of them."""
    result = np.zeros_like(cost)
    for b in range(cost.shape[0]):
        slots = [c for c in range(cost.shape[2]) if present[b, c]]
        size = min(len(slots), cost.shape[1])
        pairings = [
            list(zip(chosen, columns, strict=True))
            for columns in itertools.combinations(slots, size)
            for chosen in itertools.permutations(range(cost.shape[1]), size)
        ]
        for i, c in min(pairings, key=lambda pairs: sum(cost[b, i, c] for i, c in pairs)):
            result[b, i, c] = 1
    return result


def region_mask_contrastive_of_pairs(mask_logits, pseudo, pairs, temperature=0.1) -> float:
    """RMC with Hungarian matching; ``pairs`` is an assignment (B, N, K)."""
    dice = soft_dice(mask_logits, pseudo["masks"], pseudo["valid"]) / temperature
    to_region, to_query, total_weight = 0.0, 0.0, 0.0
    for b, i, c in zip(*np.nonzero(pairs), strict=True):
        slots = [k for k in range(dice.shape[2]) if pseudo["present"][b, k]]
        weight = pseudo["weights"][b, c]
        to_region += weight * (log_sum_exp([dice[b, i, k] for k in slots]) - dice[b, i, c])
        to_query += weight * (log_sum_exp([dice[b, j, c] for j in range(dice.shape[1])]) - dice[b, i, c])
        total_weight += weight
    return 0.5 * (to_region + to_query) / total_weight if total_weight > 0 else 0.0


def region_class_consistency_of_pairs(class_logits, pseudo, pairs) -> float:
    """RCC with Hungarian matching."""
    classes = class_probabilities(class_logits)
    total, total_weight = 0.0, 0.0
    for b, i, c in zip(*np.nonzero(pairs), strict=True):
        total -= pseudo["weights"][b, c] * math.log(classes[b, i, c] + LOG_FLOOR)
        total_weight += pseudo["weights"][b, c]
    return total / total_weight if total_weight > 0 else 0.0

import os

from PIL import Image

IMAGES = os.environ["POPE_IMAGES"]


def visual(doc):
    return [Image.open(os.path.join(IMAGES, doc["image"])).convert("RGB")]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["text"]


def results(doc, results):
    words = results[0].split(".")[0].replace(",", "").split(" ")
    said = "no" if {"No", "not", "no"} & set(words) else "yes"
    return {"pope_accuracy": float(said == doc["label"])}


def mean(values):
    return sum(values) / len(values)

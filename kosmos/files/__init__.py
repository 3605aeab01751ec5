"""Captions and boxes on disk: text and JSON files next to images, COCO, whole folders."""

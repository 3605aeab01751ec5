"""Captions and boxes on disk: text and JSON files beside images, COCO, whole folders."""

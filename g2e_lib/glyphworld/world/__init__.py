"""The world itself: vocabulary, scenes, language, renderer."""

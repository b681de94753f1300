"""The reference authority: which signed manifests and policies nodes are judged by, tried before they count."""

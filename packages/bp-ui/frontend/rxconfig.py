"""Reflex's configuration while the pages are compiled; `bp_ui.server` writes its own."""

import reflex as rx
from bp_ui.gate import open_for
from same_origin import SameOriginPlugin

open_for("build")
config = rx.Config(
    app_name="bp_ui",
    app_module_import="bp_ui.app",
    frontend_path="/__bp_prefix__",
    telemetry_enabled=False,
    show_built_with_reflex=False,
    frontend_compression_formats=[],
    plugins=[SameOriginPlugin()],
    disable_plugins=["reflex_base.plugins.sitemap.SitemapPlugin"],
)

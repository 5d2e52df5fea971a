"""The hydra search path `pkg://vissl_swav.conf`; `config` holds our configs."""

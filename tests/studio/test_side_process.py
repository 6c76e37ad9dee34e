"""Short processes of the studio: they take no code from the user's folder, and their number has a limit."""

from thinktune.studio.side_process import ask_process


def test_a_module_of_the_users_folder_is_not_run(tmp_path):
    (tmp_path / "torch.py").write_text("open('ran', 'w').close()\n")
    value = ask_process("recipes.card_process", ["4090"], tmp_path, 180)
    assert value["card"]["name"]
    assert not (tmp_path / "ran").exists()

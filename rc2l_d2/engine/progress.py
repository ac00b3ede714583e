"""A progress bar for runs that somebody watches."""

from __future__ import annotations

from tqdm import tqdm

from ..host import HookBase, get_event_storage


class ProgressBar(HookBase):
    """One line with iterations, time left, total loss and the last mIoU of student and teacher."""

    SHOWN = {"total_loss": "loss", "sem_seg/mIoU": "student mIoU", "sem_seg_teacher/mIoU": "teacher mIoU"}

    def before_train(self) -> None:
        self.bar = tqdm(initial=self.trainer.iter, total=self.trainer.max_iter, unit="it", dynamic_ncols=True)

    def after_step(self) -> None:
        latest = get_event_storage().latest()
        shown = {title: f"{latest[key][0]:.1f}" for key, title in self.SHOWN.items() if key in latest}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def after_train(self) -> None:
        self.bar.close()

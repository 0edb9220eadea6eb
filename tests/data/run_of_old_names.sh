# Run in an empty folder, with the code of commit 2d8d679 as `bifusion`.
bifusion prepare synthetic --out rooms --train-rooms 2 --val-rooms 1 --room-size-m 3.0 3.2 --point-spacing-m 0.12 --views 3 \
    --image-size 96 72 --depth-size 64 48
bifusion train bifusion_tiny --data.root rooms --data.voxel-size-m 0.2 --data.max-views 2 --data.image-size 64 \
    --data.patch-size 8 --model.unet.planes 4 4 --model.unet.blocks 1 1 --model.decoder.num-layers 1 --model.decoder.dim 8 \
    --model.decoder.heads 2 --model.decoder.ffn-dim 8 --model.clip.width 8 --model.clip.heads 2 --model.clip.patch-size 8 \
    --model.clip.image-size 64 --model.clip.layers 4 --model.fusion.dim 8 --model.fusion.hidden 8 --model.fusion.film-hidden 4 \
    --model.fusion.gate-hidden 4 --model.fusion.alignment-hidden 4 --trainer.epochs 20 --trainer.batch-size 2 \
    --trainer.workers 0 --trainer.eval-every 10 --trainer.save-every 0 --trainer.save-epochs 1 \
    --trainer.evaluation-views 2 --trainer.accelerator cpu --out run &
until [ "$(cat run/steps.jsonl 2>/dev/null | wc -l)" -ge 15 ]; do sleep 0.05; done
kill -INT $!
wait $!
# What no test needs: other checkpoints, TensorBoard.
rm -r run/tensorboard run/.lock run/checkpoints/previous
keep=$(readlink run/checkpoints/last)
find run/checkpoints -name 'step-*' ! -name "$keep" -exec rm -r {} +
ln -sfn "$keep" run/checkpoints/best
tar --owner=0 --group=0 -cJf run_of_old_names.tar.xz run
